"""What is compiled of vision attention: a pack of the 8B model, full of slices of videos."""

import jax
import jax.numpy as jnp

from ivx.kernels import choice
from ivx.kernels.case import KernelCase
from ivx.kernels.vision_attention.tpu_tiles import TILE

# Two frames of 672 x 672 are a slice of 42 x 42 patches; 9 of them in a block of 16,384 rows.
ROWS, BLOCK, SLICE, HEADS, WIDTH = 262_144, 16_384, 42 * 42, 16, 72
_SLICES = ROWS // BLOCK * (BLOCK // SLICE)


def cases(chip: str) -> list[KernelCase]:
    """Forward, and forward and backward."""
    del chip
    pair = TILE * TILE * WIDTH * HEADS
    tile = 2 * TILE * HEADS
    laid = ROWS * HEADS * WIDTH * 2
    # What a visit fetches: keys and values, or queries and slopes; the rest stays.
    return [
        _case("fwd", _forward, 4, 4 * laid, 4 * pair, tile * 2 * WIDTH),
        # The forward kernel and the two of the backward pass: two products and seven.
        _case("grad", _gradients, 18, 16 * laid, 18 * pair, 3 * tile * 2 * WIDTH),
    ]


def _case(name, build, products, hbm_bytes, block_flops, block_bytes) -> KernelCase:
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


def _forward():
    from ivx.kernels.vision_attention import vision_attention

    def run(q, k, v, slices):
        with choice.force("tpu"):
            return vision_attention(q, k, v, slices, BLOCK)

    return run


def _gradients():
    attend = _forward()

    def run(q, k, v, slices):
        loss = lambda *a: attend(*a, slices).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss, (0, 1, 2))(q, k, v)

    return run
