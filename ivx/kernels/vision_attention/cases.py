"""Benchmark cases of vision attention: a pack of the 8B model, full of video slices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels import choice
from ivx.kernels.case import KernelCase
from ivx.kernels.vision_attention.tpu_tiles import TILE

# Two frames of 672 x 672 are a slice of 42 x 42 patches; a block of 16,384 rows holds 9 slices.
ROWS, BLOCK, SLICE, HEADS, WIDTH = 262_144, 16_384, 42 * 42, 16, 72
_SLICES = ROWS // BLOCK * (BLOCK // SLICE)


def cases(chip: str) -> list[KernelCase]:
    """The forward pass, and the forward and backward pass."""
    del chip
    pair = TILE * TILE * WIDTH * HEADS
    tile = 2 * TILE * HEADS
    array_bytes = ROWS * HEADS * WIDTH * 2
    # A visit fetches keys and values, or queries and output gradients; the rest is stationary.
    return [
        _case("fwd", _forward, 4, 4 * array_bytes, 4 * pair, tile * 2 * WIDTH),
        # The forward kernel has two products, the two backward kernels have seven.
        _case("grad", _gradients, 18, 16 * array_bytes, 18 * pair, 3 * tile * 2 * WIDTH),
    ]


def _case(
    name: str,
    build: Callable[[], Callable],
    products: int,
    hbm_bytes: int,
    block_flops: int,
    block_bytes: int,
) -> KernelCase:
    patches = jax.ShapeDtypeStruct((1, ROWS, HEADS, WIDTH), jnp.bfloat16)
    return KernelCase(
        name=f"vision_attention-{name}-bf16-{SLICE}x{_SLICES}",
        op="vision_attention",
        build=build,
        arguments=(patches, patches, patches, jax.ShapeDtypeStruct((1, ROWS), jnp.int32)),
        flops=products * _SLICES * SLICE**2 * WIDTH * HEADS,
        hbm_bytes=hbm_bytes,
        per_block=f"{TILE} queries x {TILE} keys of {HEADS} heads",
        block_flops=block_flops,
        block_bytes=block_bytes,
    )


def _forward() -> Callable:
    from ivx.kernels.vision_attention import vision_attention

    def run(q: Array, k: Array, v: Array, slices: Array) -> Array:
        with choice.force("tpu"):
            return vision_attention(q, k, v, slices, BLOCK)

    return run


def _gradients() -> Callable:
    attend = _forward()

    def run(q: Array, k: Array, v: Array, slices: Array) -> tuple[Array, Array, Array]:
        loss = lambda *a: attend(*a, slices).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss, (0, 1, 2))(q, k, v)

    return run
