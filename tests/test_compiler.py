"""Compiler options for known TPUs, and none for other devices."""

import types
from unittest import mock

import jax
import numpy as np
import pytest

from ivx.aot import chips
from ivx.parallel import compiler
from ivx.parallel.mesh import AXES, make_mesh


def mesh_of(kind: str) -> mock.Mock:
    """A mesh with one device of this kind."""
    devices = np.array([[types.SimpleNamespace(device_kind=kind)]])
    return mock.Mock(spec=jax.sharding.Mesh, devices=devices)


@pytest.mark.parametrize("kind", compiler.KINDS)
def test_vmem_limit_leaves_at_least_a_quarter_of_a_core(kind):
    chip = chips.chip(compiler.KINDS[kind])
    [(name, kib)] = compiler.options(mesh_of(kind)).items()
    assert name == "xla_tpu_scoped_vmem_limit_kib"
    assert 1024 * int(kib) <= chip.vmem * 3 / 4


def test_other_devices_get_no_options():
    assert compiler.options(make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])) == {}
    assert compiler.options(mesh_of("TPU v4")) == {}
