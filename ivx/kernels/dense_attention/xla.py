"""Attention over ranges of keys in plain XLA, for CPU and GPU: one loop over pairs of blocks.

The running maximum and sum of each query's softmax are kept, so the scores of only one pair of
blocks are live. The backward pass recomputes them from the log-sum-exp:

    p_ts = exp(s_ts - lse_t),  ds_ts = p_ts (dout_t . v_s - dout_t . out_t)

A pair is visited if any row of the batch needs it. Query heads that share a key head form the rows
of one product, so keys and values are not repeated.

Shapes: q_bkgth with N = K G, k_bksh, v_bksv; scores in float32 (float64 for float64 inputs).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ivx.kernels import masking
from ivx.kernels.dense_attention.visits import KeyRange, Visits, list_visits

# Minimum and maximum number of queries and keys per pair of blocks.
SMALLEST, LARGEST = 128, 512
# A GPU launches its kernels for every pair: on an H100, a prefill of 8,192 tokens with 2,048 rows
# took half the time it took with 512.
ON_A_GPU = 2048


def block_for(length: int) -> int:
    """A sixteenth of the sequence within bounds, to compute little beyond the diagonal.

    `ON_A_GPU` on a GPU. Never more than the next multiple of 64.
    """
    sixteenth = 1 << max(length // 16 - 1, 0).bit_length()
    block = max(SMALLEST, min(LARGEST, sixteenth))
    if jax.default_backend() == "gpu":
        block = ON_A_GPU
    return min(block, -(-length // 64) * 64)


def forward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    key_range: KeyRange,
    scale: float,
) -> tuple[Float[Array, "b k g t v"], Float[Array, "b k g t"]]:
    """Outputs in the dtype of v, and log-sum-exps; both 0 for queries with an empty range.

    T and S are multiples of their `block_for`.
    """
    accumulator = jnp.promote_types(q_bkgth.dtype, jnp.float32)
    blocks, pairs = _plan(q_bkgth, k_bksh, key_range)

    def visit(step: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        out, top, total = carry
        i, j = pairs.query[step], pairs.key[step]
        q, key, value = _block(q_bkgth, i, 3, blocks[0]), *_key_block(k_bksh, v_bksv, j, blocks[1])
        scores = jnp.einsum("bkgth,bksh->bkgts", q, key, preferred_element_type=accumulator) * scale
        visible = _visible(key_range, i, j, blocks)
        scores = jnp.where(visible, scores, masking.MASKED)
        old_top = _block(top, i, 3, blocks[0])
        new_top = jnp.maximum(old_top, scores.max(-1))
        weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0)
        decay = jnp.exp(old_top - new_top)
        part = jnp.einsum(
            "bkgts,bksv->bkgtv",
            weights.astype(value.dtype),
            value,
            preferred_element_type=accumulator,
        )
        out = _update_block(out, i, 3, _block(out, i, 3, blocks[0]) * decay[..., None] + part)
        total = _update_block(total, i, 3, _block(total, i, 3, blocks[0]) * decay + weights.sum(-1))
        return out, _update_block(top, i, 3, new_top), total

    rows = q_bkgth.shape[:4]
    initial = (
        jnp.zeros((*rows, v_bksv.shape[-1]), accumulator),
        jnp.full(rows, masking.MASKED, accumulator),
        jnp.zeros(rows, accumulator),
    )
    out, top, total = jax.lax.fori_loop(0, pairs.count, visit, initial)
    divisor = jnp.where(total > 0, total, 1)
    lse = jnp.where(total > 0, top + jnp.log(divisor), 0)
    return (out / divisor[..., None]).astype(v_bksv.dtype), lse


def backward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    key_range: KeyRange,
    scale: float,
    lse_bkgt: Float[Array, "b k g t"],
    delta_bkgt: Float[Array, "b k g t"],
    d_out_bkgtv: Float[Array, "b k g t v"],
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, accumulated in float32; `delta` is dout_t . out_t."""
    accumulator = jnp.promote_types(q_bkgth.dtype, jnp.float32)
    blocks, pairs = _plan(q_bkgth, k_bksh, key_range)

    def visit(step: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        d_q, d_k, d_v = carry
        i, j = pairs.query[step], pairs.key[step]
        q, lse, delta, d_out = (
            _block(a, i, 3, blocks[0]) for a in (q_bkgth, lse_bkgt, delta_bkgt, d_out_bkgtv)
        )
        key, value = _key_block(k_bksh, v_bksv, j, blocks[1])
        product: dict[str, Any] = {"preferred_element_type": accumulator}
        scores = jnp.einsum("bkgth,bksh->bkgts", q, key, **product) * scale
        visible = _visible(key_range, i, j, blocks)
        weights = jnp.where(visible, jnp.exp(scores - lse[..., None]), 0)
        d_weights = jnp.einsum("bkgtv,bksv->bkgts", d_out, value, **product)
        d_scores = (weights * (d_weights - delta[..., None]) * scale).astype(q.dtype)
        weights = weights.astype(d_out.dtype)
        part_q = jnp.einsum("bkgts,bksh->bkgth", d_scores, key, **product)
        part_k = jnp.einsum("bkgts,bkgth->bksh", d_scores, q, **product)
        part_v = jnp.einsum("bkgts,bkgtv->bksv", weights, d_out, **product)
        return (
            _update_block(d_q, i, 3, _block(d_q, i, 3, blocks[0]) + part_q),
            _update_block(d_k, j, 2, _block(d_k, j, 2, blocks[1]) + part_k),
            _update_block(d_v, j, 2, _block(d_v, j, 2, blocks[1]) + part_v),
        )

    initial = tuple(jnp.zeros(a.shape, accumulator) for a in (q_bkgth, k_bksh, v_bksv))
    grads = jax.lax.fori_loop(0, pairs.count, visit, initial)
    return tuple(g.astype(a.dtype) for g, a in zip(grads, (q_bkgth, k_bksh, v_bksv), strict=True))


def _plan(q_bkgth: Array, k_bksh: Array, key_range: KeyRange) -> tuple[tuple[int, int], Visits]:
    """Block sizes, and the pairs of blocks that some row of the batch needs."""
    blocks = block_for(q_bkgth.shape[3]), block_for(k_bksh.shape[2])
    real = key_range.last >= key_range.first
    keys = k_bksh.shape[2]
    union = KeyRange(
        jnp.where(real, key_range.first, keys).min(0, keepdims=True),
        jnp.where(real, key_range.last, -1).max(0, keepdims=True),
    )
    return blocks, list_visits(union, keys, *blocks)


def _visible(key_range: KeyRange, i: Array, j: Array, blocks: tuple[int, int]) -> Array:
    first, last = (_block(a, i, 1, blocks[0])[:, None, None, :, None] for a in key_range)
    key = j * blocks[1] + jnp.arange(blocks[1])
    return (first <= key) & (key <= last)


def _key_block(k_bksh: Array, v_bksv: Array, j: Array, block: int) -> tuple[Array, Array]:
    return _block(k_bksh, j, 2, block), _block(v_bksv, j, 2, block)


def _block(array: Array, index: Array, axis: int, block: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, index * block, block, axis)


def _update_block(array: Array, index: Array, axis: int, part: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, index * part.shape[axis], axis)
