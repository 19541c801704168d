"""Dense attention as it is compiled ahead of time: heads of InternVideo3-8B and of Qwen3-VL-8B."""

import jax
import jax.numpy as jnp

from ivx.kernels.case import KernelCase

# Tokens of the pack, one sample, and values of a head.
TOKENS, VALUES = 8192, 128
# Query heads, key heads and width of keys: eight latent heads, and all grouped ones.
SIZES = {"latent": (8, 8, 256), "grouped": (32, 8, 128)}
# Of the latent heads: what share of the peak a step is to reach.
FORWARD, BACKWARD = {"v5p": 0.85, "v6e": 0.60}, {"v5p": 0.60, "v6e": 0.45}


def cases(chip: str) -> list[KernelCase]:
    """Forward and backward; blocks are the same on every chip."""
    found = []
    for name, sizes in SIZES.items():
        for make, goals in ((_forward, FORWARD), (_backward, BACKWARD)):
            goal = name == "latent" and goals.get(chip)
            found.append(make(name, *sizes, {"useful": goal} if goal else {}))
    return found


def _forward(name: str, heads: int, kv_heads: int, width: int, wanted: dict) -> KernelCase:
    def build():
        from ivx.kernels import choice
        from ivx.kernels.dense_attention import tpu
        from ivx.kernels.dense_attention.visits import Seen

        def run(q, k, v, first, last):
            with choice.force("tpu"):
                return tpu.forward(q, k, v, Seen(first, last), width**-0.5)

        return run

    pair = 2 * (width + VALUES)
    return KernelCase(
        name=f"dense_attention-bf16-{name}-forward-{TOKENS}",
        op="dense_attention",
        build=build,
        arguments=(*_arrays(heads, kv_heads, width), *_seen()),
        flops=pair * heads * TOKENS * (TOKENS + 1) / 2,
        hbm_bytes=2 * TOKENS * (heads + kv_heads) * (width + VALUES),
        per_block=f"{_forward_block()} queries x {_block()} keys of one head",
        block_flops=pair * _forward_block() * _block(),
        block_bytes=2 * _block() * (width + VALUES),
        kernels=("dense_attention",),
        wanted=wanted,
    )


def _backward(name: str, heads: int, kv_heads: int, width: int, wanted: dict) -> KernelCase:
    def build():
        from ivx.kernels import choice
        from ivx.kernels.dense_attention import tpu_backward
        from ivx.kernels.dense_attention.visits import Seen

        def run(q, k, v, first, last, lse, delta, d_out):
            with choice.force("tpu"):
                seen = Seen(first, last)
                return tpu_backward.backward(q, k, v, seen, width**-0.5, lse, delta, d_out)

        return run

    q, k, v = _arrays(heads, kv_heads, width)
    row = jax.ShapeDtypeStruct(q.shape[:4], jnp.float32)
    d_out = jax.ShapeDtypeStruct((*q.shape[:4], VALUES), jnp.bfloat16)
    # What the gradients ask for: scores and dout v^T, and three products with them.
    pair = 2 * (3 * width + 2 * VALUES)
    return KernelCase(
        name=f"dense_attention-bf16-{name}-backward-{TOKENS}",
        op="dense_attention",
        build=build,
        arguments=(q, k, v, *_seen(), row, row, d_out),
        flops=pair * heads * TOKENS * (TOKENS + 1) / 2,
        hbm_bytes=2 * TOKENS * (2 * (heads + kv_heads) * width + 3 * (heads + kv_heads) * VALUES),
        per_block=f"{_block()} queries x {_block()} keys of one head",
        block_flops=pair * _block() ** 2,
        block_bytes=2 * _block() * (3 * width + 2 * VALUES),
        kernels=("dense_attention_backward",),
        wanted=wanted,
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


def _seen() -> tuple[jax.ShapeDtypeStruct, ...]:
    return (jax.ShapeDtypeStruct((1, TOKENS), jnp.int32),) * 2
