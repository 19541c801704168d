"""Checkpoints are restored on other meshes; parameters can be read alone."""

import jax
import numpy as np
import optax
import pytest

from ivx import config
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import make_mesh
from ivx.training import step as training_step
from ivx.training.checkpoints import checkpoint
from ivx.training.step import init_state
from tests.conftest import small_spec

OPTIMIZER = optax.adamw(1e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with one checkpoint, written from a 4 x 2 mesh."""
    workdir = tmp_path_factory.mktemp("saved")
    definition = ModelDefinition(small_spec())
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    shardings = training_step.state_shardings(definition, OPTIMIZER, mesh)
    state = jax.jit(lambda: init_state(definition.init(1), OPTIMIZER), out_shardings=shardings)()
    checkpoints = checkpoint.Checkpoints(workdir, 2, config.snapshot(config.base()))
    checkpoints.save(state, 7)
    checkpoints.close()
    return workdir, definition, state


def assert_same(a, b) -> None:
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_state_is_restored_bitwise_on_another_mesh(saved):
    workdir, definition, state = saved
    mesh = make_mesh({"replica": 2, "fsdp": 2, "tensor": 1, "context": 2})
    shardings = training_step.state_shardings(definition, OPTIMIZER, mesh)
    shapes = training_step.abstract_state(definition, OPTIMIZER, shardings)
    restored = checkpoint.Checkpoints(workdir, 2, config.snapshot(config.base())).restore(shapes)
    assert restored.next_batch == 7
    assert_same(restored.state, state)
    kernel = restored.state.params["lm_head"]["kernel"]
    assert kernel.sharding.mesh.shape["fsdp"] == 2
    assert kernel.sharding.spec[0] == ("fsdp", "context")


def test_optimizer_moments_are_sharded_like_their_parameters(saved):
    _, _, state = saved
    moments = state.opt_state[0].mu
    for parameter, moment in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(moments), strict=True
    ):
        assert parameter.sharding == moment.sharding


def test_parameters_are_read_without_optimizer(saved):
    workdir, definition, state = saved
    params, step = checkpoint.load_params(workdir, definition.abstract_params)
    assert step == 7
    assert_same(params, state.params)


def test_workdir_without_checkpoints_raises_user_error(tmp_path, saved):
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        checkpoint.load_params(tmp_path, saved[1].abstract_params)
