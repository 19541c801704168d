"""How far one model is from another, against logits made whole."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ivx.evaluation.divergence import divergence
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from tests.conftest import pack, small_spec


def test_means_are_those_of_whole_logits(layouts, shape):
    definition = ModelDefinition(small_spec())
    both = [definition.init(seed) for seed in (0, 1)]
    batch = pack(layouts[:2], shape)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    found = divergence(*((definition.bind, params) for params in both), [batch], mesh)

    def log_probabilities(params):
        model = definition.bind(params)
        logits = np.asarray(model.logits(jax.jit(lambda b: model(b).hidden)(batch)), np.float64)
        away = logits - logits.max(-1, keepdims=True)
        return away - np.log(np.exp(away).sum(-1, keepdims=True))

    log_p, log_q = map(log_probabilities, both)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    nll = -np.take_along_axis(log_q, batch.targets[..., None].astype(int), -1)[..., 0]
    words, real = batch.weights > 0, batch.segments > 0
    assert found.all == pytest.approx(kl[real].mean(), rel=1e-5)
    assert found.words == pytest.approx(kl[words].mean(), rel=1e-5)
    assert found.loss == pytest.approx(nll[words].mean(), rel=1e-5)
