"""Every kernel compiles for every TPU: a few in each test run, all in the slow suite."""

import pytest

from benchmarks.schedules import cases, compiled_case
from ivx.aot import chips
from ivx.kernels.case import CHIPS
from tests.test_aot import libtpu

pytestmark = pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
# Op -> chip for which its first case compiles quickly enough for every run.
ALWAYS = {"latent_decode": "v6e", "cross_entropy": "v5e", "dense_attention": "v5p"}


def matrix() -> list:
    parameters = []
    for op in cases.ops():
        for chip in CHIPS:
            for index, case in enumerate(cases.of(cases.module_of(op), chip)):
                always = index == 0 and ALWAYS.get(op) == chip
                marks = () if always else (pytest.mark.slow,)
                parameters.append(
                    pytest.param(op, case, chip, id=f"{case.name}-{chip}", marks=marks)
                )
    return parameters


@pytest.mark.parametrize(("op", "case", "name"), matrix())
def test_case_compiles_and_its_hot_step_is_identified(op, case, name):
    chip = chips.CHIPS[name]
    compiled = compiled_case.compile_case(cases.module_of(op), case, chip, 1800)
    assert not compiled.refusal, compiled.refusal
    if compiled.step is not None:
        assert all(kernel.vmem <= chip.vmem for kernel in compiled.step.kernels)
        # The hot step contains the work that the case declares.
        assert compiled.step.done >= 0.95
        assert compiled.step.schedule >= compiled.step.compute


def test_every_op_with_a_kernel_has_cases():
    assert {"cross_entropy", "reverse_kl", "vision_attention"} <= set(cases.ops())
