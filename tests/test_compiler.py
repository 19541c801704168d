"""What XLA is told for devices that ivx knows, and nothing for others."""

import types

import jax
import numpy as np
import pytest

from ivx.aot import chips
from ivx.parallel import compiler
from ivx.parallel.mesh import AXES, make_mesh


def a_mesh(kind: str):
    return types.SimpleNamespace(devices=np.array([[types.SimpleNamespace(device_kind=kind)]]))


@pytest.mark.parametrize("kind", compiler.KINDS)
def test_an_operation_leaves_a_quarter_of_a_cores_memory_at_least(kind):
    chip = chips.chip(compiler.KINDS[kind])
    [(name, room)] = compiler.options(a_mesh(kind)).items()
    assert name == "xla_tpu_scoped_vmem_limit_kib"
    assert 1024 * int(room) <= chip.vmem * 3 / 4


def test_nothing_is_said_to_other_compilers():
    assert compiler.options(make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])) == {}
    assert compiler.options(a_mesh("TPU v4")) == {}
