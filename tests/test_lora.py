"""LoRA: starts as the base model, trains only A and B, and loads as an ordinary model."""

import jax
import numpy as np
import pytest

from ivx import config, from_config
from ivx.errors import UserError
from ivx.parallel import sharding
from ivx.parallel.mesh import make_mesh
from ivx.training.checkpoints import checkpoint
from ivx.training.lora import KEY, LoraDefinition, LoraSpec
from ivx.training.parameter_groups import ParameterGroups
from ivx.training.step import StepOptions
from tests import toy

SPEC = LoraSpec(rank=4, alpha=8.0, targets=("first.*",))


@pytest.fixture(scope="module")
def definition() -> LoraDefinition:
    return LoraDefinition(toy.Definition(), SPEC)


def test_only_target_kernels_get_matrices(definition):
    shapes = jax.tree.map(lambda leaf: leaf.shape, definition.abstract_params[KEY])
    assert shapes == {"first.kernel": {"a": (16, 4), "b": (4, 32)}}
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    shardings = sharding.parameter_shardings(definition.abstract, mesh)[KEY]["first.kernel"]
    assert (*shardings["a"].spec,) == ("fsdp", None) and (*shardings["b"].spec,) == (None, "tensor")


def test_new_matrices_change_nothing(definition):
    params = definition.init(0)
    base = toy.Definition().init(0)
    for a, b in zip(jax.tree.leaves(definition.merge(params)), jax.tree.leaves(base), strict=True):
        np.testing.assert_array_equal(a, b)


def test_merge_equals_formula(definition):
    params = definition.init(0)
    pair = params[KEY]["first.kernel"]
    pair["b"] = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    expected = params["first"]["kernel"] + 2.0 * (np.asarray(pair["a"]) @ pair["b"])
    merged = definition.merge(params)
    np.testing.assert_allclose(merged["first"]["kernel"], expected, rtol=1e-5, atol=1e-6)
    assert KEY not in merged
    x = toy.batch_of(0).x
    np.testing.assert_allclose(
        definition.bind(params)(x), toy.Definition().bind(merged)(x), rtol=1e-6
    )


def test_only_a_and_b_train_and_loss_falls(definition, tmp_path):
    options = StepOptions(groups=ParameterGroups(train=(f"{KEY}.*",)))
    toy.train(tmp_path, options=options, definition=definition, steps=12)
    params, _ = checkpoint.load_params(tmp_path, definition.abstract_params)
    before = definition.init(0)
    np.testing.assert_array_equal(params["first"]["kernel"], before["first"]["kernel"])
    np.testing.assert_array_equal(params["second"]["kernel"], before["second"]["kernel"])
    assert np.any(params[KEY]["first.kernel"]["b"])
    batch, stage = toy.batch_of(3), toy.Stage()
    losses = [stage.loss(definition.bind(p), batch, {}).total for p in (before, params)]
    assert losses[1] < losses[0]
    # The run loads as an ordinary model.
    lora = {"lora_rank": SPEC.rank, "lora_alpha": SPEC.alpha, "lora_targets": SPEC.targets}
    stored = config.base().unlock()
    stored.optim.update(lora)
    read, step = from_config.stored_model.StoredModel(tmp_path, stored, toy.Definition()).load()
    assert step == 12 and read.keys() == {"first", "second"}
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(definition.merge(params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_large_rank_and_unmatched_target_are_refused():
    with pytest.raises(UserError, match=r"optim\.lora_rank = 17 .* set it to 16 or less"):
        LoraDefinition(toy.Definition(), LoraSpec(17, 8.0, ("first.*",)))
    with pytest.raises(UserError, match="matches no kernel"):
        LoraDefinition(toy.Definition(), LoraSpec(4, 8.0, ("*.bias",)))
