"""Eight devices give what one gives, and what cannot be laid out is explained."""

import dataclasses
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.ad_checkpoint import saved_residuals
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from data_pipelines.layout import Layout
from ivx.errors import UserError
from ivx.kernels.vision_attention import xla
from ivx.models.definition import ModelDefinition
from ivx.models.spec import PRESETS, tiny
from ivx.models.vision import VisualTokens
from ivx.parallel import ambient, remat, rules, shares
from ivx.parallel import mesh as meshes
from ivx.sampling.sampler import Sampler
from ivx.stages.language_model import LanguageModelStage
from ivx.training.abstract import state_shardings
from ivx.training.state import init_state, make_step
from tests.batches import random_batch
from tests.conftest import small_spec

OPTIMIZER = optax.sgd(1.0)
STAGE = LanguageModelStage(None, [], "square")


def mesh_of(**sizes: int):
    return meshes.make_mesh(dict.fromkeys(meshes.AXES, 1) | sizes)


@pytest.fixture(scope="module")
def batch():
    """Eight packs of two samples."""
    return random_batch(8)


@pytest.fixture(scope="module")
def alone(batch):
    """From an attention to its definition, and the first step on one device."""

    @functools.cache
    def run(attention: str):
        definition = ModelDefinition(small_spec(attention))
        start = init_state(definition.init(0), OPTIMIZER)
        return definition, *jax.jit(make_step(definition, STAGE, OPTIMIZER, 1))(start, {}, batch)

    return run


def spread_step(definition, batch, mesh, accumulation=1):
    """The same step over a mesh."""
    shardings = state_shardings(definition, OPTIMIZER, mesh)
    start = jax.jit(lambda: init_state(definition.init(0), OPTIMIZER), out_shardings=shardings)()
    step = ambient.under(mesh, make_step(definition, STAGE, OPTIMIZER, accumulation))
    jitted = jax.jit(step, out_shardings=(shardings, rules.replicated(mesh)))
    return jitted(start, {}, rules.put_batch(batch, mesh))


def assert_same_step(one, other) -> None:
    """Loss, and every gradient: the step is plain descent at rate 1, so parameters are start - g.

    Relative to the largest gradient of an array, beside what parameters are rounded to.
    """
    definition, state, metrics = one
    spread, spread_metrics = other
    assert float(spread_metrics["loss/total"]) == pytest.approx(
        float(metrics["loss/total"]), rel=1e-5
    )
    assert float(spread_metrics["grad/norm"]) == pytest.approx(
        float(metrics["grad/norm"]), rel=1e-5
    )
    start = definition.init(0)
    for path, first in jax.tree_util.tree_leaves_with_path(start):
        a, b = (_at(tree.params, path) for tree in (state, spread))
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
        # The others take a step's compilation each.
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
def test_sharded_equals_single_device(alone, batch, attention, sizes):
    definition = alone(attention)[0]
    assert_same_step(alone(attention), spread_step(definition, batch, mesh_of(**sizes)))


@pytest.mark.slow
def test_micro_batches_change_nothing_on_a_mesh(alone, batch):
    definition = alone("m2la")[0]
    assert_same_step(alone("m2la"), spread_step(definition, batch, mesh_of(fsdp=4, tensor=2), 2))


@pytest.mark.parametrize("attention", ["m2la", "gqa"])
def test_every_large_parameter_is_spread_over_all_of_a_slice(attention):
    """What a device keeps of the 8B model is near its share; replica alone holds copies."""
    definition = ModelDefinition(PRESETS["8b"](attention))
    for sizes in ({"fsdp": 64}, {"fsdp": 16, "tensor": 4}, {"fsdp": 8, "context": 16}):
        mesh = AbstractMesh(
            tuple((dict.fromkeys(meshes.AXES, 1) | {"replica": 2} | sizes).values()), meshes.AXES
        )
        shardings = rules.parameter_shardings(definition.abstract, mesh)
        shapes = jax.tree.leaves(definition.abstract_params)
        kept = sum(
            np.prod(sharding.shard_shape(shape.shape))
            for shape, sharding in zip(shapes, jax.tree.leaves(shardings), strict=True)
        )
        whole = sum(np.prod(shape.shape) for shape in shapes)
        assert kept < 1.06 * whole / np.prod(list(sizes.values())), sizes


def test_a_width_that_many_devices_do_not_divide_lies_on_fewer():
    """1,152 numbers of a patch over fsdp 8 x context 32: over context alone."""
    mesh = AbstractMesh((1, 8, 1, 32), meshes.AXES)
    split = {"embed": 4096, "patch_width": 1152}
    found = {axis: rules.spec("x", (size,), (axis,), mesh) for axis, size in split.items()}
    assert found == {
        "embed": PartitionSpec(("fsdp", "context")),
        "patch_width": PartitionSpec("context"),
    }


def test_an_axis_that_cannot_be_split_is_named_with_the_sizes_that_could():
    spec = small_spec()
    odd = ModelDefinition(dataclasses.replace(spec, text=dataclasses.replace(spec.text, mlp=60)))
    with pytest.raises(
        UserError, match=r"mlp.*an axis of 60 cannot be split over tensor = 8.*tensor = 1, 2, 4 "
    ):
        rules.parameter_shardings(odd.abstract, mesh_of(tensor=8))


def test_no_head_is_torn():
    """6 heads of 64 are 384 numbers, which 4 devices could share; heads they could not."""
    spec = dataclasses.replace(small_spec(), text=tiny().text)
    with pytest.raises(UserError, match=r"self_attn.*6 x \d+.*tensor = 4.*tensor = 1, 2 would fit"):
        rules.parameter_shardings(ModelDefinition(spec).abstract, mesh_of(fsdp=2, tensor=4))


def test_two_axes_on_one_mesh_axis_are_refused():
    with pytest.raises(UserError, match=r"w of shape \(8, 8\).*'mlp', 'heads'.*twice"):
        rules.spec("w", (8, 8), ("mlp", "heads"), mesh_of(fsdp=4, tensor=2))


def test_a_mesh_that_does_not_make_up_the_devices_is_refused():
    with pytest.raises(UserError, match=r"does not make up 8 devices.*1, 2, 4, 8"):
        mesh_of(replica=3)
    with pytest.raises(UserError, match="at most one of them -1"):
        mesh_of(replica=-1, fsdp=-1)


def stub_devices(slices: int, per_slice: int):
    """Devices of several slices, as far as laying them out looks at them."""
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
    with pytest.raises(UserError, match=r"mesh.replica = 3: there are 2 slices.*multiple of 2"):
        meshes.arrange_slices((3, 2, 1, 1), stub_devices(2, 3), 2)


def test_patches_are_padded_until_all_devices_have_as_many():
    batch = random_batch(1, blocks=3)
    put = rules.put_batch(batch, mesh_of(tensor=2, context=4))
    assert put.patches.shape[1] == 8 * 16
    assert {shard.data.shape[1] for shard in put.patches.addressable_shards} == {16}
    np.testing.assert_array_equal(np.asarray(put.slices)[:, :48], batch.slices)
    assert (
        not np.asarray(put.slices)[:, 48:].any() and (np.asarray(put.grid)[:, 48:, 2:] == 1).all()
    )


def test_hosts_read_the_packs_that_their_devices_hold():
    """Eight devices of four hosts, two each: the process of every device, by place of packs."""
    whole = np.arange(8).reshape(8, 1) // 2
    assert shares.share_of(1, whole) == shares.PackShare(1, 4, (2, 3), True)
    # A pack over two hosts: both read it.
    over_two = np.arange(8).reshape(2, 4) // 2
    assert shares.share_of(2, over_two) == shares.PackShare(1, 2, (1,), True)
    assert shares.share_of(3, over_two) == shares.PackShare(1, 2, (1,), False)
    # Devices are not always in the order of their hosts.
    shuffled = np.array([[0], [1], [0], [1]])
    assert shares.share_of(1, shuffled) == shares.PackShare(1, 2, (1, 3), True)
    with pytest.raises(UserError, match=r"half overlapping.*divisor of the 3 hosts"):
        shares.share_of(0, np.array([[0, 0], [0, 1], [1, 2]]))


@pytest.mark.slow
def test_layers_can_be_made_again_in_every_way(alone, batch):
    """Policies change memory, not results."""
    definition = alone("m2la")[0]
    for policy in remat.NAMES:
        other = ModelDefinition(dataclasses.replace(definition.spec, remat=policy))
        start = init_state(other.init(0), OPTIMIZER)
        assert_same_step(
            alone("m2la"), jax.jit(make_step(other, STAGE, OPTIMIZER, 1))(start, {}, batch)
        )


def test_policies_keep_what_they_say(monkeypatch):
    """The backward pass is handed ever fewer numbers; offload hands them to the host."""
    # Slices of a few patches are attended to whole, and keep nothing by name.
    monkeypatch.setattr(xla, "DENSE", 0)
    batch = jax.tree.map(jnp.asarray, random_batch(1))

    def kept(policy: str):
        definition = ModelDefinition(dataclasses.replace(small_spec(), remat=policy))

        def loss(params):
            return STAGE.loss(definition.bind(params), batch, {}).total

        return [aval for aval, _ in saved_residuals(loss, definition.abstract_params)]

    sizes = [sum(aval.size for aval in kept(policy)) for policy in remat.NAMES[:6]]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 6
    # The inputs of all decoder layers and vision blocks, and nothing else.
    away = [aval for aval in kept("offload") if "host" in str(aval)]
    assert sorted(aval.shape for aval in away) == [(3, 1, 64, 32), (3, 1, 64, 48)]
    assert not [aval for aval in kept("layer") if "host" in str(aval)]


def test_offload_is_refused_where_there_is_no_pinned_memory():
    memory = types.SimpleNamespace(kind="device")
    device = types.SimpleNamespace(addressable_memories=lambda: [memory])
    with pytest.raises(UserError, match=r"needs devices with pinned host memory.*remat = layer"):
        remat.check_offload([device])
    remat.check_offload(jax.devices())


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="expected one of none, dots, all_attention, attention"):
        remat.remat("some")


def test_slices_never_meet(batch):
    """The tower on eight devices: patches spread over all of them, and not one collective."""
    definition, mesh = ModelDefinition(small_spec()), mesh_of(fsdp=2, tensor=2, context=2)

    def see(params, batch):
        visual = definition.bind(params).visual
        return visual(batch.patches, batch.slices, batch.grid, batch.slice_block)

    params, put = definition.init(0), rules.put_batch(batch, mesh)
    spread = jax.jit(
        ambient.under(mesh, see),
        in_shardings=(rules.replicated(mesh), jax.tree.map(lambda a: a.sharding, put)),
        out_shardings=VisualTokens(*(_over_all(mesh, axis) for axis in (1, 2))),
    )
    compiled = spread.lower(params, put).compile()
    text = compiled.as_text()
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", text)
    found = compiled(jax.device_put(params, rules.replicated(mesh)), put)
    for ours, alone in zip(found, jax.jit(see)(params, batch), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-6)


def _over_all(mesh, axis: int) -> NamedSharding:
    """Packs on the axis before, slice blocks on this one."""
    places = [None] * (axis - 1) + ["pack", "slice_block", None]
    return NamedSharding(mesh, rules.placed(places, mesh))


@pytest.mark.slow
def test_answers_drawn_over_a_mesh_are_those_of_one_device():
    """Prompts over fsdp, heads over tensor, caches over context."""
    definition = ModelDefinition(small_spec())
    params = definition.init(0)
    none, places = np.zeros(40, bool), np.tile(np.arange(40, dtype=np.int32), (3, 1))
    prompts = [
        Layout("x", tokens.astype(np.int32), none, places, none, ())
        for tokens in np.random.default_rng(0).integers(0, 700, (2, 40))
    ]
    given = prompts, [([], [])] * 2, 8, 1, 0.0, jax.random.key(0)
    alone = Sampler(definition, params, -1).sample(*given)
    mesh = mesh_of(fsdp=2, tensor=2, context=2)
    spread = jax.device_put(params, rules.parameter_shardings(definition.abstract, mesh))
    for one, other in zip(alone, Sampler(definition, spread, -1, mesh).sample(*given), strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logps, other.logps, rtol=1e-5)
