"""A step that is too large says what would make it smaller, here and on a pod."""

import jax
import pytest

from ivx.commands import too_large
from ivx.errors import UserError
from tests.test_compile_step import a_config

SAID = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40G of 31.25G hbm.
  Largest program allocations in hbm:
  1. Size: 8.00G
     Operator: op_name="jit(step)/jvp(while)/dot_general"
     Shape: bf16[8,65536,8192]{2,1,0:T(8,128)}
     Unpadded size: 8.00G
     ==========================
  2. Size: 8.00G
     Operator: op_name="jit(step)/jvp(while)/dot_general"
     Shape: bf16[8,65536,8192]{2,1,0:T(8,128)}
     ==========================
"""


def test_what_does_not_fit_is_named_with_what_would_help():
    found = too_large.largest(SAID)
    assert found == ["8.00G bf16[8,65536,8192] of jit(step)/jvp(while)/dot_general, 2 times"]
    found = too_large.knobs(a_config(), {"replica": 1, "fsdp": 64, "tensor": 1, "context": 1})
    assert [one.split(" =")[0] for one in found[:4]] == [
        "optim.accumulation",
        "model.remat",
        "model.remat",
        "model.remat",
    ]


@pytest.mark.parametrize(
    ("mesh", "changes", "found"),
    [
        # 21 packs a device have no half.
        ({"fsdp": 6}, {"batch_packs": 126}, "optim.accumulation = 3: 1/3 of the activations"),
        (
            {"fsdp": 9, "context": 2},
            {"batch_packs": 9, "pack_tokens": 12 * 1024},
            "mesh.fsdp = 3, mesh.context = 6 and optim.accumulation = 3: 1/3 of",
        ),
        ({"fsdp": 128}, {}, "mesh.fsdp = 64, mesh.context = 2 and optim.accumulation = 2: half"),
        # Three do not divide 65,536 tokens, nor 32 heads.
        ({"fsdp": 3}, {"batch_packs": 3}, "model.remat = latent"),
    ],
)
def test_what_would_help_divides_evenly(mesh, changes, found):
    config = a_config()
    config.optim.accumulation = 1
    config.data.update(changes)
    knobs = too_large.knobs(config, mesh)
    assert knobs[0].startswith(found)
    assert any("mesh.tensor" in one for one in knobs) == (mesh != {"fsdp": 3})


def test_heads_are_split_over_devices_that_split_packs():
    one = next(
        one for one in too_large.knobs(a_config(), {"fsdp": 8, "context": 4}) if "tensor" in one
    )
    assert one.startswith("mesh.tensor = 2, mesh.context = 2: half the weights")


def test_statistics_have_packs_alone_to_make_smaller():
    config = a_config("convert")
    assert [one.split(":")[0] for one in too_large.knobs(config, {"fsdp": 4})] == [
        "data.batch_packs = 4",
        "a larger slice, or a chip with more memory",
    ]


def test_a_pod_says_so_too():
    raised = r"the largest buffers: 8\.00G .* the cheapest first: optim"
    with pytest.raises(UserError, match=raised), too_large.told(a_config(), {"fsdp": 64}):
        raise jax.errors.JaxRuntimeError(SAID)


def test_memory_that_runs_out_while_running_is_told_too():
    """By the allocator of this machine, which has no petabyte."""
    raised = pytest.raises(UserError, match="none that the compiler names")
    with raised, too_large.told(a_config(), {"fsdp": 64}):
        jax.block_until_ready(jax.numpy.zeros(2**50, "uint8"))


@pytest.mark.parametrize(
    "other",
    [
        RuntimeError("something else"),
        # Of a bucket, of the coordination service, and of a core's own memory.
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes of quota"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Received message larger than max"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem"),
    ],
)
def test_what_is_not_of_a_devices_memory_passes(other):
    with pytest.raises(type(other)) as found, too_large.told(a_config(), {"fsdp": 64}):
        raise other
    assert found.value is other


@pytest.mark.parametrize(
    "said",
    [
        "Error loading program 'jit_step': Attempting to reserve 6.48G at the bottom of memory."
        " That was not possible. There are 6.78G free, 0B reserved, and 3.33G reservable.",
        "Error allocating device buffer: Attempting to allocate 2.00G. That was not possible.",
        "Out of memory while trying to allocate 7406166528 bytes.",
        "Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0",
    ],
)
def test_allocators_say_it_in_their_ways(said):
    assert too_large.is_of_memory(f"RESOURCE_EXHAUSTED: {said}")
    assert not too_large.is_of_memory(said)
