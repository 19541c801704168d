"""Every kernel compiles for every TPU: a few at each run of the tests, all in the slow suite."""

import pytest

from ivx.aot import cases, chips, kernel
from ivx.kernels.case import CHIPS
from tests.test_aot import libtpu

pytestmark = pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
# Ops whose first case compiles quickly enough to be compiled each time, and for which chip.
ALWAYS = {"latent_decode": "v6e", "cross_entropy": "v5e", "dense_attention": "v5p"}


def matrix() -> list:
    found = []
    for op in cases.ops():
        for chip in CHIPS:
            for number, case in enumerate(cases.of(cases.module_of(op), chip)):
                always = number == 0 and ALWAYS.get(op) == chip
                marks = () if always else (pytest.mark.slow,)
                found.append(pytest.param(op, case, chip, id=f"{case.name}-{chip}", marks=marks))
    return found


@pytest.mark.parametrize(("op", "case", "name"), matrix())
def test_it_compiles_and_its_step_is_found(op, case, name):
    chip = chips.CHIPS[name]
    found = kernel.compile_case(cases.module_of(op), case, chip, 1800)
    assert not found.refusal, found.refusal
    if found.step is not None:
        assert all(one.vmem <= chip.vmem for one in found.step.kernels)
        # The hot step does what the case says of it: nothing was missed when it was looked for.
        assert found.step.done >= 0.95
        assert found.step.schedule >= found.step.compute


def test_every_op_with_a_kernel_has_cases():
    assert {"cross_entropy", "reverse_kl", "vision_attention"} <= set(cases.ops())
