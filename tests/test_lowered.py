"""The digest of a lowered program depends on what it computes, not on names, lines or files."""

import types

import jax
import jax.numpy as jnp
import pytest

from ivx.aot import lowered

KERNEL = """
import jax
from jax.experimental import pallas as pl

def double(x_ref, out_ref):
    scaled = x_ref[...] * 2.0
    out_ref[...] = scaled

@jax.jit
def shift(x):
    return x + 1.0

def run(x):
    rows = pl.pallas_call(double, out_shape=x, name="double")(x)
    return shift(rows)
"""


# Defined elsewhere, the function is still the same one.
SHIFT = "@jax.jit\ndef shift(x):\n    return x + 1.0\n\n"


def lower(source: str, shape: tuple[int, ...] = (8, 128), file: str = "kernel.py") -> str:
    """StableHLO of `run` of a source, for a TPU."""
    module = types.ModuleType("kernel")
    exec(compile(source, file, "exec"), module.__dict__)
    argument = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.jit(module.run).trace(argument).lower(lowering_platforms=("tpu",))
    text = program.as_text()
    assert "tpu_custom_call" in text
    return text


def digest(source: str, **options: str) -> str:
    return lowered.digest(lower(source), options)


def renamed(*pairs: tuple[str, str]) -> str:
    source = KERNEL
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize(
    "source",
    [
        "# One.\n\n# Two.\n" + KERNEL,
        renamed(("shift", "move_up")),
        renamed(("rows", "doubled"), ("scaled", "product")),
        renamed(("(double,", "(twice,"), ("def double", "def twice")),
        renamed(("x_ref", "source_ref"), ("run(x)", "run(a)"), ("=x,", "=a,"), (")(x)", ")(a)")),
        SHIFT.join(("import jax\n", renamed((SHIFT, ""), ("import jax\n", "")))),
    ],
    ids=["lines", "function", "variables", "kernel function", "arguments", "order"],
)  # fmt: skip
def test_renaming_and_moving_code_keep_the_digest(source):
    assert digest(source) == digest(KERNEL)


def test_renaming_the_file_keeps_the_digest():
    assert lowered.digest(lower(KERNEL, file="other/place.py"), {}) == digest(KERNEL)


@pytest.mark.parametrize(
    "source",
    [
        renamed(("* 2.0", "* 3.0")),
        renamed(("* 2.0", "+ 2.0")),
        renamed(("x + 1.0", "x * 1.0")),
        renamed(("(x)\n    return", "(x * 2)\n    return")),
    ],
    ids=["kernel constant", "kernel operation", "operation", "another operation"],
)
def test_another_operation_changes_the_digest(source):
    assert digest(source) != digest(KERNEL)


def test_another_shape_and_another_compiler_option_change_the_digest():
    assert lowered.digest(lower(KERNEL, (16, 128)), {}) != digest(KERNEL)
    assert digest(KERNEL, tiles="1") != digest(KERNEL)
    assert digest(KERNEL, tiles="1") == digest(KERNEL, tiles="1")


def test_canonical_text_holds_kernels_in_words_and_no_names():
    text = lowered.canonical(lower(renamed(("shift", "move_up"))))
    assert "func.func public @0(%0" in text and "call @1(%" in text
    assert "arith.mulf" in text, "the kernel is printed"
    assert "move_up" not in text and "kernel.py" not in text and "jax.result_info" not in text


PROGRAM = """module @jit_step attributes {mhlo.num_partitions = 4 : i32} {
  sdy.mesh @mesh = <["fsdp"=4, "context"=1]>
  func.func public @main(%arg0: tensor<4xf32>, %arg1: tensor<i32>) -> tensor<4xf32> {
    %cst = stablehlo.constant dense<RATE> : tensor<f32>
    %0 = stablehlo.convert %arg1 : (tensor<i32>) -> tensor<f32>
    %1 = stablehlo.multiply %cst, %0 : tensor<f32>
    %2 = stablehlo.broadcast_in_dim %1, dims = [] : (tensor<f32>) -> tensor<4xf32>
    %3 = stablehlo.multiply %arg0, %2 : tensor<4xf32>
    %4 = call @used(%3) : (tensor<4xf32>) -> tensor<4xf32>
    return %4 : tensor<4xf32>
  }
  func.func private @unused(%arg0: tensor<4xf32>) -> tensor<4xf32> {
    return %arg0 : tensor<4xf32>
  }
  func.func private @used(%arg0: tensor<4xf32>) -> tensor<4xf32> {
    %0 = stablehlo.negate %arg0 : tensor<4xf32>
    return %0 : tensor<4xf32>
  }
}
"""
SUM = """module @jit_norm {
  func.func public @main(%arg0: tensor<4xf32>) -> tensor<f32> {
    %cst = stablehlo.constant dense<0.0> : tensor<f32>
    %0 = stablehlo.reduce(%arg0 init: %cst) applies stablehlo.add across dimensions = [0] : (tensor<4xf32>, tensor<f32>) -> tensor<f32>
    %1 = stablehlo.sqrt %0 : tensor<f32>
    return %1 : tensor<f32>
  }
}
"""  # noqa: E501


def test_float_scalars_are_left_out_and_integers_are_not():
    """A learning-rate schedule changes no digest; an array of indices does."""
    slow, fast = (lowered.canonical(PROGRAM.replace("RATE", rate)) for rate in ("0.1", "0.2"))
    assert slow == fast
    assert "stablehlo.negate" in fast and "stablehlo.convert" not in fast and "0.2" not in fast
    indexed = PROGRAM.replace(
        "    %4 =", "    %c = stablehlo.constant dense<N> : tensor<4xi32>\n    %4 ="
    ).replace("return %4 ", "return %4, %c ")
    first, second = (lowered.canonical(indexed.replace("<N>", f"<{n}>")) for n in (1, 2))
    assert first != second


def test_array_operations_that_feed_only_a_float_scalar_are_kept():
    """A norm of gradients is a scalar, but its sums and collectives are part of the program."""
    assert "stablehlo.reduce(%0 init" in lowered.canonical(SUM)
    other = SUM.replace("stablehlo.add", "stablehlo.maximum")
    assert lowered.canonical(other) != lowered.canonical(SUM)
    assert lowered.canonical(SUM.replace("sqrt", "log")) == lowered.canonical(SUM)


def test_mesh_and_number_of_devices_are_part_of_the_program():
    first = lowered.canonical(PROGRAM)
    assert lowered.canonical(PROGRAM.replace('"fsdp"=4, "context"=1', '"fsdp"=2, "context"=2')) != (
        first
    )
    assert lowered.canonical(PROGRAM.replace("partitions = 4", "partitions = 8")) != first
    assert lowered.canonical(PROGRAM.replace("@jit_step", "@jit_update")) == first


def test_functions_are_numbered_by_first_call_and_unused_ones_are_left_out():
    text = lowered.canonical(PROGRAM)
    assert text.count("func.func") == 2 and "@unused" not in text
    functions = PROGRAM.split("  func.func ")
    header, main, unused, used = functions
    # The last function is followed by the brace of the module.
    moved = "  func.func ".join([header, used.rstrip()[:-1], main, unused + "}\n"])
    assert lowered.canonical(moved.replace("@used", "@negated")) == text
