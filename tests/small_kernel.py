"""A Pallas matrix product to compile: one that fits in VMEM, and one that does not."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels.case import KernelCase

WIDE, BLOCK = 2048, 512


def cases(chip: str) -> list[KernelCase]:
    del chip
    # Scratch of 1 MiB, and of 256 MiB, which exceeds the VMEM of a core.
    return [_case("small", 1), _case("large", 256)]


def _case(name: str, copies: int) -> KernelCase:
    """A product in blocks of [BLOCK, BLOCK], with `copies` blocks of scratch."""
    matrix = jax.ShapeDtypeStruct((WIDE, WIDE), jnp.bfloat16)
    return KernelCase(
        name=name,
        op="small",
        build=lambda: lambda x, w: product(x, w, copies),
        arguments=(matrix, matrix),
        flops=2 * WIDE**3,
        hbm_bytes=4 * WIDE**3 / BLOCK,
        per_block=f"{BLOCK} x {BLOCK} x {BLOCK}",
        block_flops=2 * BLOCK**3,
        block_bytes=4 * BLOCK**2,
    )


def product(x: jax.Array, w: jax.Array, copies: int) -> jax.Array:
    steps = x.shape[0] // BLOCK

    def kernel(x_ref: Any, w_ref: Any, out_ref: Any, sum_ref: Any) -> None:
        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            sum_ref[0] = jnp.zeros_like(sum_ref[0])

        sum_ref[0] += jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32)

        @pl.when(pl.program_id(2) == steps - 1)
        def _() -> None:
            out_ref[...] = sum_ref[0].astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=(steps,) * 3,
        in_specs=[
            pl.BlockSpec((BLOCK, BLOCK), lambda i, j, k: (i, k)),
            pl.BlockSpec((BLOCK, BLOCK), lambda i, j, k: (k, j)),
        ],
        out_specs=pl.BlockSpec((BLOCK, BLOCK), lambda i, j, k: (i, j)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((copies, BLOCK, BLOCK), jnp.float32)],
        name="small_matmul",
    )(x, w)
