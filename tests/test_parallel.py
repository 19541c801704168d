"""Eight devices give the results of one, and impossible shardings are refused."""

import dataclasses
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from data_pipelines.layout import Layout
from ivx.errors import UserError
from ivx.kernels.vision_attention import xla
from ivx.models.definition import ModelDefinition
from ivx.models.spec import PRESETS, tiny
from ivx.models.vision import VisualTokens
from ivx.parallel import batches, remat, sharding
from ivx.parallel import mesh as meshes
from ivx.sampling.sampler import Sampler
from ivx.stages.language_model import LanguageModelStage
from ivx.training.step import StepOptions, init_state, make_step, state_shardings
from tests.batches import random_batch
from tests.conftest import small_spec
from tests.residuals import Residual, saved_residuals

OPTIMIZER = optax.sgd(1.0)
STAGE = LanguageModelStage(None, [], "square")


def mesh_of(**sizes: int):
    return meshes.make_mesh(dict.fromkeys(meshes.AXES, 1) | sizes)


@pytest.fixture(scope="module")
def batch():
    """Eight packs of two samples."""
    return random_batch(8)


@pytest.fixture(scope="module")
def single(batch):
    """Attention name -> definition and first step on one device."""

    @functools.cache
    def run(attention: str):
        definition = ModelDefinition(small_spec(attention))
        start = init_state(definition.init(0), OPTIMIZER)
        return definition, *jax.jit(make_step(definition, STAGE, OPTIMIZER))(start, {}, batch)

    return run


def sharded_step(definition, batch, mesh, accumulation=1):
    """The same step on a mesh."""
    shardings = state_shardings(definition, OPTIMIZER, mesh)
    start = jax.jit(lambda: init_state(definition.init(0), OPTIMIZER), out_shardings=shardings)()
    step = sharding.under_mesh(
        mesh, make_step(definition, STAGE, OPTIMIZER, StepOptions(accumulation))
    )
    jitted = jax.jit(step, out_shardings=(shardings, sharding.replicated(mesh)))
    return jitted(start, {}, batches.put_batch(batch, mesh))


def assert_same_step(single_step, mesh_step) -> None:
    """Compares the loss and all gradients; SGD with rate 1 makes the parameters start - gradient.

    Errors are relative to the largest gradient of an array, plus the rounding of parameters.
    """
    definition, state, metrics = single_step
    sharded, sharded_metrics = mesh_step
    assert float(sharded_metrics["loss/total"]) == pytest.approx(
        float(metrics["loss/total"]), rel=1e-5
    )
    assert float(sharded_metrics["grad/norm"]) == pytest.approx(
        float(metrics["grad/norm"]), rel=1e-5
    )
    start = definition.init(0)
    for path, first in jax.tree_util.tree_leaves_with_path(start):
        a, b = (_at(tree.params, path) for tree in (state, sharded))
        gradient = np.abs(first - a).max()
        rounding = 2 * np.finfo(np.float32).eps * np.abs(first).max()
        assert np.abs(a - b).max() <= 1e-5 * gradient + rounding, path


def _at(tree, path):
    for entry in path:
        tree = tree[entry.key]
    return np.asarray(tree)


@pytest.mark.parametrize(
    ("attention", "sizes"),
    [
        ("m2la", {"fsdp": 2, "tensor": 2, "context": 2}),
        # Each of these compiles a step.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("m2la", {"replica": 8}),
                ("m2la", {"fsdp": 8}),
                ("m2la", {"tensor": 4, "replica": 2}),
                ("m2la", {"context": 8}),
                ("gqa", {"fsdp": 4, "tensor": 2}),
                ("gqa", {"replica": 2, "tensor": 2, "context": 2}),
            )
        ),
    ],
    ids=str,
)
def test_sharded_equals_single_device(single, batch, attention, sizes):
    definition = single(attention)[0]
    assert_same_step(single(attention), sharded_step(definition, batch, mesh_of(**sizes)))


@pytest.mark.slow
def test_micro_batches_do_not_change_the_step_on_a_mesh(single, batch):
    definition = single("m2la")[0]
    assert_same_step(single("m2la"), sharded_step(definition, batch, mesh_of(fsdp=4, tensor=2), 2))


@pytest.mark.parametrize("attention", ["m2la", "gqa"])
def test_parameters_are_sharded_over_all_devices_of_a_slice(attention):
    """A device holds close to its share of the 8B model; only `replica` has copies."""
    definition = ModelDefinition(PRESETS["8b"](attention))
    for sizes in ({"fsdp": 64}, {"fsdp": 16, "tensor": 4}, {"fsdp": 8, "context": 16}):
        mesh = AbstractMesh(
            tuple((dict.fromkeys(meshes.AXES, 1) | {"replica": 2} | sizes).values()), meshes.AXES
        )
        shardings = sharding.parameter_shardings(definition.abstract, mesh)
        shapes = jax.tree.leaves(definition.abstract_params)
        kept = sum(
            np.prod(sharding.shard_shape(shape.shape))
            for shape, sharding in zip(shapes, jax.tree.leaves(shardings), strict=True)
        )
        whole = sum(np.prod(shape.shape) for shape in shapes)
        assert kept < 1.06 * whole / np.prod(list(sizes.values())), sizes


def test_width_that_devices_do_not_divide_uses_fewer_mesh_axes():
    """A patch width of 1,152 on fsdp 8 x context 32 is sharded over context only."""
    mesh = AbstractMesh((1, 8, 1, 32), meshes.AXES)
    split = {"embed": 4096, "patch_width": 1152}
    found = {
        axis: sharding.partition_spec("x", (size,), (axis,), mesh) for axis, size in split.items()
    }
    assert found == {
        "embed": PartitionSpec(("fsdp", "context")),
        "patch_width": PartitionSpec("context"),
    }


def test_axis_that_cannot_be_split_is_refused_with_sizes_that_fit():
    spec = small_spec()
    odd = ModelDefinition(dataclasses.replace(spec, text=dataclasses.replace(spec.text, mlp=60)))
    with pytest.raises(
        UserError, match=r"mlp.*an axis of 60 cannot be split over tensor = 8.*tensor = 1, 2, 4 "
    ):
        sharding.parameter_shardings(odd.abstract, mesh_of(tensor=8))


def test_heads_are_never_split():
    """4 devices divide the 384 numbers of 6 heads of 64, but not the heads."""
    spec = dataclasses.replace(small_spec(), text=tiny().text)
    with pytest.raises(UserError, match=r"self_attn.*6 x \d+.*tensor = 4.*tensor = 1, 2 would fit"):
        sharding.parameter_shardings(ModelDefinition(spec).abstract, mesh_of(fsdp=2, tensor=4))


def test_two_axes_on_one_mesh_axis_are_refused():
    with pytest.raises(UserError, match=r"w of shape \(8, 8\).*'mlp', 'heads'.*twice"):
        sharding.partition_spec("w", (8, 8), ("mlp", "heads"), mesh_of(fsdp=4, tensor=2))


def test_mesh_that_does_not_match_the_devices_is_refused():
    with pytest.raises(UserError, match=r"does not match 8 devices.*1, 2, 4, 8"):
        mesh_of(replica=3)
    with pytest.raises(UserError, match=r"^mesh.fsdp = 7 does not match 8 devices; make it a div"):
        mesh_of(replica=-1, fsdp=7)
    with pytest.raises(UserError, match="at most one of them -1"):
        mesh_of(replica=-1, fsdp=-1)


def stub_devices(slices: int, per_slice: int):
    """Stand-ins for devices of several slices."""
    return [
        types.SimpleNamespace(
            id=s * per_slice + i,
            slice_index=s,
            process_index=s,
            platform="cpu",
            device_kind="cpu",
        )
        for i in range(per_slice)
        for s in range(slices)
    ]


def test_only_replica_crosses_slices():
    found = meshes.arrange_slices((4, 2, 1, 2), stub_devices(2, 8), 2)
    crossed = np.vectorize(lambda device: device.slice_index)(found)
    assert (crossed[:2] == 0).all() and (crossed[2:] == 1).all()
    with pytest.raises(UserError, match=r"mesh.replica = 3 does not fit 2 slices.*multiple of 2"):
        meshes.arrange_slices((3, 2, 1, 1), stub_devices(2, 3), 2)


def test_patches_are_padded_to_equal_counts_per_device():
    batch = random_batch(1, blocks=3)
    put = batches.put_batch(batch, mesh_of(tensor=2, context=4))
    assert put.patches.shape[1] == 8 * 16
    assert {shard.data.shape[1] for shard in put.patches.addressable_shards} == {16}
    np.testing.assert_array_equal(np.asarray(put.slices)[:, :48], batch.slices)
    assert (
        not np.asarray(put.slices)[:, 48:].any() and (np.asarray(put.grid)[:, 48:, 2:] == 1).all()
    )


def test_hosts_read_the_packs_of_their_devices():
    """Eight devices of four hosts, two each; arrays of processes by pack position."""
    whole = np.arange(8).reshape(8, 1) // 2
    assert batches.share_of_process(1, whole) == batches.PackShare(1, 4, (2, 3), True)
    # Both hosts of a pack read it.
    over_two = np.arange(8).reshape(2, 4) // 2
    assert batches.share_of_process(2, over_two) == batches.PackShare(1, 2, (1,), True)
    assert batches.share_of_process(3, over_two) == batches.PackShare(1, 2, (1,), False)
    # Devices may be in any order of hosts.
    shuffled = np.array([[0], [1], [0], [1]])
    assert batches.share_of_process(1, shuffled) == batches.PackShare(1, 2, (1, 3), True)
    with pytest.raises(UserError, match=r"partial overlap.*divisor of the 3 hosts"):
        batches.share_of_process(0, np.array([[0, 0], [0, 1], [1, 2]]))


@pytest.mark.slow
def test_remat_policies_do_not_change_results(single, batch):
    definition = single("m2la")[0]
    for policy in remat.NAMES:
        other = ModelDefinition(dataclasses.replace(definition.spec, remat=policy))
        start = init_state(other.init(0), OPTIMIZER)
        assert_same_step(
            single("m2la"), jax.jit(make_step(other, STAGE, OPTIMIZER))(start, {}, batch)
        )


def test_remat_policies_save_less_and_less(monkeypatch):
    """Each policy saves fewer residuals than the one before; offload saves them on the host."""
    # Small slices use dense attention, which has no named values.
    monkeypatch.setattr(xla, "DENSE", 0)
    batch = jax.tree.map(jnp.asarray, random_batch(1))

    def saved(policy: str) -> list[Residual]:
        definition = ModelDefinition(dataclasses.replace(small_spec(), remat=policy))

        def loss(params):
            return STAGE.loss(definition.bind(params), batch, {}).total

        return saved_residuals(loss, definition.abstract_params)

    sizes = [sum(residual.size for residual in saved(policy)) for policy in remat.NAMES[:6]]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 6
    # The inputs of all decoder layers and vision blocks, and nothing else.
    offloaded = [residual.shape for residual in saved("offload") if residual.on_host]
    assert sorted(offloaded) == [(3, 1, 64, 32), (3, 1, 64, 48)]
    assert not [residual for residual in saved("layer") if residual.on_host]


def test_offload_is_refused_without_pinned_memory():
    memory = types.SimpleNamespace(kind="device")
    device = types.SimpleNamespace(addressable_memories=lambda: [memory])
    with pytest.raises(UserError, match=r"needs devices with pinned host memory.*remat = layer"):
        remat.check_offload([device])
    remat.check_offload(jax.devices())


def test_unknown_policy_is_refused():
    with pytest.raises(UserError, match="expected one of none, dots, all_attention, attention"):
        remat.remat("some")


def test_vision_tower_needs_no_collectives(batch):
    """With patches sharded over all eight devices."""
    definition, mesh = ModelDefinition(small_spec()), mesh_of(fsdp=2, tensor=2, context=2)

    def see(params, batch):
        visual = definition.bind(params).visual
        return visual(batch.patches, batch.slices, batch.grid, batch.slice_block)

    params, put = definition.init(0), batches.put_batch(batch, mesh)
    spread = jax.jit(
        sharding.under_mesh(mesh, see),
        in_shardings=(sharding.replicated(mesh), jax.tree.map(lambda a: a.sharding, put)),
        out_shardings=VisualTokens(*(_slice_block_sharding(mesh, axis) for axis in (1, 2))),
    )
    compiled = spread.lower(params, put).compile()
    text = compiled.as_text()
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", text)
    found = compiled(jax.device_put(params, sharding.replicated(mesh)), put)
    for ours, alone in zip(found, jax.jit(see)(params, batch), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-6)


def _slice_block_sharding(mesh, axis: int) -> NamedSharding:
    """Slice blocks on this axis, packs on the one before."""
    places = [None] * (axis - 1) + ["pack", "slice_block", None]
    return NamedSharding(mesh, sharding.preferred_spec(places, mesh))


@pytest.mark.slow
def test_sampling_on_a_mesh_equals_single_device():
    """Prompts over fsdp, heads over tensor, caches over context."""
    definition = ModelDefinition(small_spec())
    params = definition.init(0)
    none, places = np.zeros(40, bool), np.tile(np.arange(40, dtype=np.int32), (3, 1))
    prompts = [
        Layout("x", tokens.astype(np.int32), none, places, none, ())
        for tokens in np.random.default_rng(0).integers(0, 700, (2, 40))
    ]
    arguments = prompts, [([], [])] * 2, 8, 1, 0.0, jax.random.key(0)
    single_answers = Sampler(definition, params, -1).sample(*arguments)
    mesh = mesh_of(fsdp=2, tensor=2, context=2)
    sharded = jax.device_put(params, sharding.parameter_shardings(definition.abstract, mesh))
    answers = Sampler(definition, sharded, -1, mesh).sample(*arguments)
    for answer, expected in zip(answers, single_answers, strict=True):
        assert answer.tokens == expected.tokens
        np.testing.assert_allclose(answer.logps, expected.logps, rtol=1e-5)
