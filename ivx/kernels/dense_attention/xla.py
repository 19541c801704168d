"""Attention over intervals of keys in plain XLA, for CPU and GPU: one loop over block pairs.

The running maximum and sum of a softmax are kept for every query, so that scores are alive for one
pair of blocks at a time; the backward pass makes them again from the log of that sum:

    p_ts = exp(s_ts - lse_t),  ds_ts = p_ts (dout_t . v_s - dout_t . out_t)

A pair is visited if any row of the batch has something to see in it. Query heads that share a key
head are rows of one product, so that keys and values are not repeated.

Shapes: q_bkgth with N = K G, k_bksh, v_bksv; scores in float32 (float64 if inputs are).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ivx.kernels import masking
from ivx.kernels.dense_attention.visits import Seen, Visits, visits

# Fewest and most rows of queries and of keys of one pair. A GPU launches its kernels anew for every
# pair: with 2,048 rows a prefill of 8,192 tokens took half as long on an H100 as with 512.
SMALLEST, LARGEST = 128, 512
ON_A_GPU = 2048


def block_for(length: int) -> int:
    """A sixteenth of a sequence, so that little beyond the diagonal is made, within bounds.

    On a GPU `ON_A_GPU`. No more than the next multiple of 64.
    """
    sixteenth = 1 << max(length // 16 - 1, 0).bit_length()
    wanted = max(SMALLEST, min(LARGEST, sixteenth))
    if jax.default_backend() == "gpu":
        wanted = ON_A_GPU
    return min(wanted, -(-length // 64) * 64)


def forward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    seen: Seen,
    scale: float,
) -> tuple[Float[Array, "b k g t v"], Float[Array, "b k g t"]]:
    """Outputs in the dtype of v, and the log of each softmax's sum; 0 where nothing is seen.

    T and S are multiples of `block_for` of them.
    """
    wide = jnp.promote_types(q_bkgth.dtype, jnp.float32)
    blocks, pairs = _plan(q_bkgth, k_bksh, seen)

    def visit(number, carry):
        out, top, total = carry
        i, j = pairs.query[number], pairs.key[number]
        q, key, value = _rows(q_bkgth, i, 3, blocks[0]), *_keys(k_bksh, v_bksv, j, blocks[1])
        scores = jnp.einsum("bkgth,bksh->bkgts", q, key, preferred_element_type=wide) * scale
        visible = _visible(seen, i, j, blocks)
        scores = jnp.where(visible, scores, masking.MASKED)
        before = _rows(top, i, 3, blocks[0])
        now = jnp.maximum(before, scores.max(-1))
        weights = jnp.where(visible, jnp.exp(scores - now[..., None]), 0)
        shrink = jnp.exp(before - now)
        part = jnp.einsum(
            "bkgts,bksv->bkgtv", weights.astype(value.dtype), value, preferred_element_type=wide
        )
        out = _put(out, i, 3, _rows(out, i, 3, blocks[0]) * shrink[..., None] + part)
        total = _put(total, i, 3, _rows(total, i, 3, blocks[0]) * shrink + weights.sum(-1))
        return out, _put(top, i, 3, now), total

    rows = q_bkgth.shape[:4]
    start = (
        jnp.zeros((*rows, v_bksv.shape[-1]), wide),
        jnp.full(rows, masking.MASKED, wide),
        jnp.zeros(rows, wide),
    )
    out, top, total = jax.lax.fori_loop(0, pairs.count, visit, start)
    some = jnp.where(total > 0, total, 1)
    lse = jnp.where(total > 0, top + jnp.log(some), 0)
    return (out / some[..., None]).astype(v_bksv.dtype), lse


def backward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    seen: Seen,
    scale: float,
    lse_bkgt: Float[Array, "b k g t"],
    delta_bkgt: Float[Array, "b k g t"],
    d_out_bkgtv: Float[Array, "b k g t v"],
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, summed in float32; `delta` is dout_t . out_t."""
    wide = jnp.promote_types(q_bkgth.dtype, jnp.float32)
    blocks, pairs = _plan(q_bkgth, k_bksh, seen)

    def visit(number, carry):
        d_q, d_k, d_v = carry
        i, j = pairs.query[number], pairs.key[number]
        q, lse, delta, d_out = (
            _rows(a, i, 3, blocks[0]) for a in (q_bkgth, lse_bkgt, delta_bkgt, d_out_bkgtv)
        )
        key, value = _keys(k_bksh, v_bksv, j, blocks[1])
        product = {"preferred_element_type": wide}
        scores = jnp.einsum("bkgth,bksh->bkgts", q, key, **product) * scale
        visible = _visible(seen, i, j, blocks)
        weights = jnp.where(visible, jnp.exp(scores - lse[..., None]), 0)
        slope = jnp.einsum("bkgtv,bksv->bkgts", d_out, value, **product)
        slope = (weights * (slope - delta[..., None]) * scale).astype(q.dtype)
        weights = weights.astype(d_out.dtype)
        part_q = jnp.einsum("bkgts,bksh->bkgth", slope, key, **product)
        part_k = jnp.einsum("bkgts,bkgth->bksh", slope, q, **product)
        part_v = jnp.einsum("bkgts,bkgtv->bksv", weights, d_out, **product)
        return (
            _put(d_q, i, 3, _rows(d_q, i, 3, blocks[0]) + part_q),
            _put(d_k, j, 2, _rows(d_k, j, 2, blocks[1]) + part_k),
            _put(d_v, j, 2, _rows(d_v, j, 2, blocks[1]) + part_v),
        )

    start = tuple(jnp.zeros(a.shape, wide) for a in (q_bkgth, k_bksh, v_bksv))
    grads = jax.lax.fori_loop(0, pairs.count, visit, start)
    return tuple(g.astype(a.dtype) for g, a in zip(grads, (q_bkgth, k_bksh, v_bksv), strict=True))


def _plan(q_bkgth: Array, k_bksh: Array, seen: Seen) -> tuple[tuple[int, int], Visits]:
    """Sizes of blocks, and the pairs that some row of the batch visits."""
    blocks = block_for(q_bkgth.shape[3]), block_for(k_bksh.shape[2])
    real = seen.last >= seen.first
    keys = k_bksh.shape[2]
    union = Seen(
        jnp.where(real, seen.first, keys).min(0, keepdims=True),
        jnp.where(real, seen.last, -1).max(0, keepdims=True),
    )
    return blocks, visits(union, keys, *blocks)


def _visible(seen: Seen, i: Array, j: Array, blocks: tuple[int, int]) -> Array:
    first, last = (_rows(a, i, 1, blocks[0])[:, None, None, :, None] for a in seen)
    key = j * blocks[1] + jnp.arange(blocks[1])
    return (first <= key) & (key <= last)


def _keys(k_bksh: Array, v_bksv: Array, j: Array, block: int) -> tuple[Array, Array]:
    return _rows(k_bksh, j, 2, block), _rows(v_bksv, j, 2, block)


def _rows(array: Array, number: Array, axis: int, block: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, number * block, block, axis)


def _put(array: Array, number: Array, axis: int, part: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, number * part.shape[axis], axis)
