"""The start parameters of a run become part of its state: no second copy stays on the devices."""

import gc
import math

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from ivx.parallel import sharding
from ivx.parallel.mesh import AXES
from ivx.training.lora import LoraDefinition, LoraSpec
from ivx.training.parameter_groups import ParameterGroups
from ivx.training.step import StepOptions
from tests import toy

ONE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
EIGHT = Mesh(np.array(jax.devices()).reshape(1, 4, 2, 1), AXES)


class Wide(toy.Definition):
    """The toy with a middle of 4,096: its parameters dwarf batches and metrics."""

    def __init__(self):
        self._graph, self.abstract = nnx.split(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))

    def init(self, seed: int):
        return nnx.to_pure_dict(nnx.state(Network(nnx.Rngs(seed))))


class Network(toy.Model):
    """Without biases, which every device would hold."""

    def __init__(self, rngs: nnx.Rngs):
        options = {"use_bias": False, "rngs": rngs}
        into, out = ({sharding.AXES: axes} for axes in (("embed", "mlp"), ("mlp", "embed")))
        self.first = nnx.Linear(16, 4096, kernel_metadata=into, **options)
        self.second = nnx.Linear(4096, 16, kernel_metadata=out, **options)


class Stage(toy.Stage):
    """Records after each step what the devices hold, in bytes; may have a frozen teacher."""

    def __init__(self, teacher: bool = False):
        super().__init__()
        self.before, self.held, self._teacher = live(), [], teacher

    def producer(self, start: int):
        producer = super().producer(start)
        following = producer.next

        def next_batch(params):
            self.held.append(live() - self.before)
            return following(params)

        producer.next = next_batch
        return producer

    def frozen(self, mesh):
        if not self._teacher:
            return {}
        wide = Wide()
        return jax.device_put(wide.init(1), sharding.parameter_shardings(wide.abstract, mesh))


def live() -> int:
    """Bytes of all arrays on all devices; two arrays may share a buffer."""
    gc.collect()
    shards = [shard for array in jax.live_arrays() for shard in array.addressable_shards]
    buffers = {(s.device.id, s.data.unsafe_buffer_pointer()): s.data.nbytes for s in shards}
    return sum(buffers.values())


def size(definition, mesh) -> dict[str, int]:
    """Bytes of each part of the parameters on all devices, with replicas."""
    places = sharding.parameter_shardings(definition.abstract, mesh)
    return {
        name: sum(
            4 * mesh.size * math.prod(place.shard_shape(leaf.shape))
            for leaf, place in zip(
                jax.tree.leaves(part), jax.tree.leaves(places[name]), strict=True
            )
        )
        for name, part in definition.abstract_params.items()
    }


@pytest.mark.parametrize("mesh", [ONE, EIGHT], ids=["one device", "eight devices"])
@pytest.mark.parametrize("kind", ["all", "one layer", "lora", "teacher"])
def test_devices_hold_state_and_teacher_once(kind, mesh, tmp_path):
    base = Wide()
    start = jax.tree.map(np.asarray, base.init(0))
    definition = LoraDefinition(base, LoraSpec(2, 4.0, ("*",))) if kind == "lora" else base
    groups = {"one layer": ("second.*",), "lora": ("lora.*",)}.get(kind, ("*",))

    given = []

    def initial_params(shardings):
        params = jax.device_put(start, {name: shardings[name] for name in start})
        given.append(definition.extend(params, 0) if kind == "lora" else params)
        return given[0]

    stage = Stage(teacher=kind == "teacher")
    toy.train(
        tmp_path,
        stage,
        mesh=mesh,
        definition=definition,
        initial_params=initial_params,
        options=StepOptions(groups=ParameterGroups(train=groups)),
        steps=3,
        save_every=3,
        validate_every=3,
    )
    sizes = size(definition, mesh)
    trained = {"one layer": ["second"], "lora": ["lora"]}.get(kind, sizes)
    copy = sum(size(base, mesh).values())
    expected = (
        sum(sizes.values())
        + 2 * sum(sizes[name] for name in trained)
        + (copy if kind == "teacher" else 0)
    )
    # A second copy of the start would add a third of the state or more.
    assert len(stage.held) == 3
    for held in stage.held:
        assert expected <= held < expected + copy / 4
    # Even the caller's own reference holds no memory: A and B alone lie elsewhere at first.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves([given[0][name] for name in start]))
