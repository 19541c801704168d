"""Eight devices give what one gives, and what cannot be laid out is explained."""

import jax
import numpy as np
import optax
import pytest

from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import ambient, rules
from ivx.parallel.mesh import make_mesh
from ivx.stages.language_model import LanguageModelStage
from ivx.training.loop import _state_shardings
from ivx.training.state import init_state, make_step
from tests.conftest import pack, small_spec


@pytest.mark.parametrize(
    ("attention", "sizes"),
    [
        ("m2la", {"replica": 8, "fsdp": 1, "tensor": 1, "context": 1}),
        ("m2la", {"replica": 2, "fsdp": 2, "tensor": 2, "context": 1}),
        ("gqa", {"replica": 1, "fsdp": 4, "tensor": 2, "context": 1}),
    ],
)
def test_sharded_equals_single_device(layouts, shape, attention, sizes):
    """Loss, gradient norm and parameters after one step."""
    packs = [pack(layouts[i : i + 1 + i % 2], shape) for i in range(8)]
    batch = jax.tree.map(lambda *rows: np.concatenate(rows), *packs)
    definition = ModelDefinition(small_spec(attention))
    stage, optimizer = LanguageModelStage(None, [], "square"), optax.sgd(0.1)
    step = make_step(definition, stage, optimizer, 1)
    state, metrics = jax.jit(step)(init_state(definition.init(0), optimizer), {}, batch)

    mesh = make_mesh(sizes)
    shardings = _state_shardings(definition, optimizer, mesh)
    start = jax.jit(lambda: init_state(definition.init(0), optimizer), out_shardings=shardings)()
    sharded = jax.jit(ambient.under(mesh, step), out_shardings=(shardings, rules.replicated(mesh)))
    spread_state, spread_metrics = sharded(start, {}, rules.put_batch(batch, mesh))
    for name in ("loss/total", "grad/norm"):
        assert float(spread_metrics[name]) == pytest.approx(float(metrics[name]), rel=1e-5)
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(spread_state.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_mesh_that_does_not_make_up_the_devices_is_refused():
    with pytest.raises(UserError, match="does not make up 8 devices"):
        make_mesh({"replica": 3, "fsdp": 1, "tensor": 1, "context": 1})
    with pytest.raises(UserError, match="at most one of them -1"):
        make_mesh({"replica": -1, "fsdp": -1, "tensor": 1, "context": 1})


def test_an_axis_that_cannot_be_split_is_named():
    definition = ModelDefinition(small_spec())
    mesh = make_mesh({"replica": 1, "fsdp": 1, "tensor": 8, "context": 1})
    odd = ModelDefinition(
        definition.spec.__class__(**vars(definition.spec) | {"text": _odd(definition)})
    )
    with pytest.raises(UserError, match=r"mlp.*an axis of 60 cannot be split over tensor = 8"):
        rules.parameter_shardings(odd.abstract, mesh)


def _odd(definition):
    import dataclasses

    return dataclasses.replace(definition.spec.text, mlp=60)
