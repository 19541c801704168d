"""A matrix product by Pallas, to compile: one that fits the memory of a core, and one that not."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels.case import KernelCase

WIDE = 2048


def cases(chip: str) -> list[KernelCase]:
    del chip
    return [_case("small", 512), _case("large", 8192)]


def _case(name: str, block: int) -> KernelCase:
    """Blocks of [block, block] times [block, block]."""
    side = max(WIDE, block)
    whole = jax.ShapeDtypeStruct((side, side), jnp.bfloat16)
    return KernelCase(
        name=name,
        op="small",
        build=lambda: lambda x, w: product(x, w, block),
        arguments=(whole, whole),
        flops=2 * side**3,
        hbm_bytes=4 * side**3 / block,
        per_block=f"{block} x {block} x {block}",
        block_flops=2 * block**3,
        block_bytes=4 * block**2,
    )


def product(x, w, block: int):
    steps = x.shape[0] // block

    def kernel(x_ref, w_ref, out_ref, sum_ref):
        @pl.when(pl.program_id(2) == 0)
        def _():
            sum_ref[...] = jnp.zeros_like(sum_ref)

        sum_ref[...] += jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32)

        @pl.when(pl.program_id(2) == steps - 1)
        def _():
            out_ref[...] = sum_ref[...].astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=(steps,) * 3,
        in_specs=[
            pl.BlockSpec((block, block), lambda i, j, k: (i, k)),
            pl.BlockSpec((block, block), lambda i, j, k: (k, j)),
        ],
        out_specs=pl.BlockSpec((block, block), lambda i, j, k: (i, j)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((block, block), jnp.float32)],
        name="small_matmul",
    )(x, w)
