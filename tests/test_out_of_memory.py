"""A program that does not fit in memory gives advice, when compiled and when run."""

import jax
import pytest

from ivx.commands import out_of_memory
from ivx.errors import UserError
from tests.test_compile_step import a_config

MESSAGE = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40G of 31.25G hbm.
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


def test_largest_buffers_and_knobs_are_listed():
    found = out_of_memory.largest(MESSAGE)
    assert found == ["8.00G bf16[8,65536,8192] of jit(step)/jvp(while)/dot_general, 2 times"]
    found = out_of_memory.knobs(a_config(), {"replica": 1, "fsdp": 64, "tensor": 1, "context": 1})
    assert [knob.split(" =")[0] for knob in found[:4]] == [
        "optim.accumulation",
        "model.remat",
        "model.remat",
        "model.remat",
    ]


@pytest.mark.parametrize(
    ("mesh", "changes", "first"),
    [
        # 21 packs per device cannot be halved.
        ({"fsdp": 6}, {"batch_packs": 126}, "optim.accumulation = 3: 1/3 of the activations"),
        (
            {"fsdp": 9, "context": 2},
            {"batch_packs": 9, "pack_tokens": 12 * 1024},
            "mesh.fsdp = 3, mesh.context = 6 and optim.accumulation = 3: 1/3 of",
        ),
        ({"fsdp": 128}, {}, "mesh.fsdp = 64, mesh.context = 2 and optim.accumulation = 2: half"),
        # Three divides neither 65,536 tokens nor 32 heads.
        ({"fsdp": 3}, {"batch_packs": 3}, "model.remat = latent"),
    ],
)
def test_knobs_divide_evenly(mesh, changes, first):
    config = a_config()
    config.optim.accumulation = 1
    config.data.update(changes)
    knobs = out_of_memory.knobs(config, mesh)
    assert knobs[0].startswith(first)
    assert any("mesh.tensor" in knob for knob in knobs) == (mesh != {"fsdp": 3})


def test_tensor_axis_takes_devices_of_context():
    knobs = out_of_memory.knobs(a_config(), {"fsdp": 8, "context": 4})
    knob = next(knob for knob in knobs if "tensor" in knob)
    assert knob.startswith("mesh.tensor = 2, mesh.context = 2: half the weights")


def test_statistics_pass_offers_fewer_packs_only():
    config = a_config("convert")
    assert [knob.split(":")[0] for knob in out_of_memory.knobs(config, {"fsdp": 4})] == [
        "data.batch_packs = 4",
        "a larger slice, or a chip with more memory",
    ]


def test_compiler_error_becomes_advice():
    raised = r"the largest buffers: 8\.00G .* the cheapest first: optim"
    with pytest.raises(UserError, match=raised), out_of_memory.explaining(a_config(), {"fsdp": 64}):
        raise jax.errors.JaxRuntimeError(MESSAGE)


def test_allocation_error_at_run_time_becomes_advice():
    """The allocator of this machine has no petabyte."""
    raised = pytest.raises(UserError, match="none that the compiler names")
    with raised, out_of_memory.explaining(a_config(), {"fsdp": 64}):
        jax.block_until_ready(jax.numpy.zeros(2**50, "uint8"))


@pytest.mark.parametrize(
    "other",
    [
        RuntimeError("something else"),
        # From a bucket, the coordination service, and VMEM.
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes of quota"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Received message larger than max"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem"),
    ],
)
def test_other_errors_pass_unchanged(other):
    with pytest.raises(type(other)) as found, out_of_memory.explaining(a_config(), {"fsdp": 64}):
        raise other
    assert found.value is other


@pytest.mark.parametrize(
    "message",
    [
        "Error loading program 'jit_step': Attempting to reserve 6.48G at the bottom of memory."
        " That was not possible. There are 6.78G free, 0B reserved, and 3.33G reservable.",
        "Error allocating device buffer: Attempting to allocate 2.00G. That was not possible.",
        "Out of memory while trying to allocate 7406166528 bytes.",
        "Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0",
    ],
)
def test_messages_of_all_allocators_are_recognized(message):
    assert out_of_memory.is_of_memory(f"RESOURCE_EXHAUSTED: {message}")
    assert not out_of_memory.is_of_memory(message)
