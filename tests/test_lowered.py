"""Lowered programs are told apart by what they do, not by the lines that they come from."""

import types

import jax
import jax.numpy as jnp

from ivx.aot import lowered

KERNEL = """
from jax.experimental import pallas as pl

def double(x_ref, out_ref):
    out_ref[...] = x_ref[...] * FACTOR

def run(x):
    return pl.pallas_call(double, out_shape=x)(x) + 1.0
"""


def digest(source: str, **options: str) -> str:
    module = types.ModuleType("kernel")
    exec(compile(source, "kernel.py", "exec"), module.__dict__)
    shape = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    program = jax.jit(module.run).trace(shape).lower(lowering_platforms=("tpu",))
    text = program.as_text()
    assert "tpu_custom_call" in text
    return lowered.digest(text, options)


def test_lines_do_not_count_and_what_is_done_does():
    first = digest(KERNEL.replace("FACTOR", "2.0"))
    assert digest("# One.\n\n# Two.\n" + KERNEL.replace("FACTOR", "2.0")) == first
    assert digest(KERNEL.replace("FACTOR", "3.0")) != first
    assert digest(KERNEL.replace("FACTOR", "2.0").replace("+ 1.0", "+ 2.0")) != first
    assert digest(KERNEL.replace("FACTOR", "2.0"), tiles="1") != first
