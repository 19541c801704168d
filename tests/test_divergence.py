"""The divergence of two models, against materialised logits."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ivx.evaluation.divergence import divergence
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from tests.conftest import pack, small_spec


def test_means_match_materialised_logits(layouts, shape):
    definition = ModelDefinition(small_spec())
    params = [definition.init(seed) for seed in (0, 1)]
    batch = pack(layouts[:2], shape)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    result = divergence(*((definition.bind, p) for p in params), [batch], mesh)

    def log_probabilities(params):
        model = definition.bind(params)
        logits = np.asarray(model.logits(jax.jit(lambda b: model(b).hidden)(batch)), np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    log_p, log_q = map(log_probabilities, params)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    nll = -np.take_along_axis(log_q, batch.targets[..., None].astype(int), -1)[..., 0]
    words, real = batch.weights > 0, batch.segments > 0
    assert result.all == pytest.approx(kl[real].mean(), rel=1e-5)
    assert result.words == pytest.approx(kl[words].mean(), rel=1e-5)
    assert result.loss == pytest.approx(nll[words].mean(), rel=1e-5)
