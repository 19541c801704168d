"""Benchmark cases of dense attention: the head shapes of InternVideo3-8B and Qwen3-VL-8B."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels.case import KernelCase

# Tokens of the pack (one sample), and width of the values.
TOKENS, VALUES = 8192, 128
# (query heads, key heads, key width): eight latent heads, and all grouped heads.
SIZES = {"latent": (8, 8, 256), "grouped": (32, 8, 128)}
# Target fraction of peak of a step, for the latent heads.
FORWARD, BACKWARD = {"v5p": 0.85, "v6e": 0.60}, {"v5p": 0.60, "v6e": 0.45}


def cases(chip: str) -> list[KernelCase]:
    """Forward and backward; the blocks are the same on every chip."""
    results = []
    for name, sizes in SIZES.items():
        for make, goals in ((_forward, FORWARD), (_backward, BACKWARD)):
            goal = name == "latent" and goals.get(chip)
            results.append(make(name, *sizes, {"useful": goal} if goal else {}))
    return results


def _forward(
    name: str, heads: int, kv_heads: int, width: int, target: dict[str, float]
) -> KernelCase:
    def build() -> Callable:
        from ivx.kernels import choice
        from ivx.kernels.dense_attention import tpu
        from ivx.kernels.dense_attention.visits import KeyRange

        def run(q: Array, k: Array, v: Array, first: Array, last: Array) -> tuple[Array, Array]:
            with choice.force("tpu"):
                return tpu.forward(q, k, v, KeyRange(first, last), width**-0.5)

        return run

    pair = 2 * (width + VALUES)
    return KernelCase(
        name=f"dense_attention-bf16-{name}-forward-{TOKENS}",
        op="dense_attention",
        build=build,
        arguments=(*_arrays(heads, kv_heads, width), *_key_range()),
        flops=pair * heads * TOKENS * (TOKENS + 1) / 2,
        hbm_bytes=2 * TOKENS * (heads + kv_heads) * (width + VALUES),
        per_block=f"{_forward_block()} queries x {_block()} keys of one head",
        block_flops=pair * _forward_block() * _block(),
        block_bytes=2 * _block() * (width + VALUES),
        kernels=("dense_attention",),
        wanted=target,
    )


def _backward(
    name: str, heads: int, kv_heads: int, width: int, target: dict[str, float]
) -> KernelCase:
    def build() -> Callable:
        from ivx.kernels import choice
        from ivx.kernels.dense_attention import tpu_backward
        from ivx.kernels.dense_attention.visits import KeyRange

        def run(
            q: Array,
            k: Array,
            v: Array,
            first: Array,
            last: Array,
            lse: Array,
            delta: Array,
            d_out: Array,
        ) -> tuple[Array, Array, Array]:
            with choice.force("tpu"):
                key_range = KeyRange(first, last)
                return tpu_backward.backward(q, k, v, key_range, width**-0.5, lse, delta, d_out)

        return run

    q, k, v = _arrays(heads, kv_heads, width)
    row = jax.ShapeDtypeStruct(q.shape[:4], jnp.float32)
    d_out = jax.ShapeDtypeStruct((*q.shape[:4], VALUES), jnp.bfloat16)
    # The gradients need the scores, dout v^T, and three products with them.
    pair = 2 * (3 * width + 2 * VALUES)
    return KernelCase(
        name=f"dense_attention-bf16-{name}-backward-{TOKENS}",
        op="dense_attention",
        build=build,
        arguments=(q, k, v, *_key_range(), row, row, d_out),
        flops=pair * heads * TOKENS * (TOKENS + 1) / 2,
        hbm_bytes=2 * TOKENS * (2 * (heads + kv_heads) * width + 3 * (heads + kv_heads) * VALUES),
        per_block=f"{_block()} queries x {_block()} keys of one head",
        block_flops=pair * _block() ** 2,
        block_bytes=2 * _block() * (3 * width + 2 * VALUES),
        kernels=("dense_attention_backward",),
        wanted=target,
    )


def _block() -> int:
    from ivx.kernels.dense_attention import blocks

    return blocks.block_for(TOKENS)


def _forward_block() -> int:
    from ivx.kernels.dense_attention import blocks

    return blocks.forward_block(TOKENS)


def _arrays(heads: int, kv_heads: int, width: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    shapes = (
        (1, kv_heads, heads // kv_heads, TOKENS, width),
        (1, kv_heads, TOKENS, width),
        (1, kv_heads, TOKENS, VALUES),
    )
    return tuple(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)


def _key_range() -> tuple[jax.ShapeDtypeStruct, ...]:
    return (jax.ShapeDtypeStruct((1, TOKENS), jnp.int32),) * 2
