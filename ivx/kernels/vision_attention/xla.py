"""Attention within slices for CPU and GPU, with bounded memory.

Blocks of up to `DENSE` rows use dense attention, as many blocks at a time as `SCORES` allows.
Larger blocks are split into tiles. Each tile of queries iterates over the tiles that share a slice
with it (`visits.py`), with an online softmax:

    m' = max(m, max_y s_xy)    l' = e^(m - m') l + sum_y e^(s_xy - m')    o' likewise

The backward pass recomputes the scores from the log-sum-exp of each row,

    p = e^(s - lse)    ds = p (do v^T - rowsum(do o))    dq = ds k    dk = ds^T q    dv = p^T do

and accumulates dk and dv in float32.

Shapes: [B, X, N, H] at the boundary, [N, R, H] with R = B X inside; y are keys.
"""

import functools
from collections.abc import Sequence

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.masking import MASKED
from ivx.kernels.vision_attention import visits
from ivx.parallel import remat

# Blocks with more than DENSE rows are split into tiles of TILE rows.
DENSE, TILE = 512, 256
# Maximum number of live scores over all heads: 64 MiB in float32.
SCORES = 2**24
# Queries, keys, values, slice ids, output, log-sum-exp.
_Residuals = tuple[Array, Array, Array, Array, Array, Array]


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """Same contract as the public function; rows of slice 0 are undefined."""
    if block <= DENSE:
        return _dense(q_bxnh, k_bxnh, v_bxnh, slices_bx, block)
    shape = q_bxnh.shape
    slices_r = visits.global_ids(slices_bx)
    padding = -len(slices_r) % TILE
    q, k, v = (
        jnp.pad(einops.rearrange(a, "b x n h -> n (b x) h"), ((0, 0), (0, padding), (0, 0)))
        for a in (q_bxnh, k_bxnh, v_bxnh)
    )
    out = _tiled(q, k, v, jnp.pad(slices_r, (0, padding)))
    return einops.rearrange(out[:, : len(slices_r)], "n (b x) h -> b x n h", b=shape[0])


def _dense(q_bxnh: Array, k_bxnh: Array, v_bxnh: Array, slices_bx: Array, block: int) -> Array:
    def attend(q: Array, k: Array, v: Array, slices: Array) -> Array:
        scores = jnp.einsum("xnh,ynh->nxy", q, k, preferred_element_type=_accumulator(q))
        same = slices[:, None] == slices[None]
        weights = jnp.where(same, scores * q.shape[-1] ** -0.5, MASKED)
        return jnp.einsum("nxy,ynh->xnh", jax.nn.softmax(weights, -1).astype(v.dtype), v)

    rows, heads = slices_bx.shape[1], q_bxnh.shape[2]
    blocks = rows // block * slices_bx.shape[0]
    split = lambda a: a.reshape(a.shape[0], -1, block, *a.shape[2:])  # noqa: E731
    arrays = tuple(map(split, (q_bxnh, k_bxnh, v_bxnh, slices_bx)))
    max_blocks = SCORES // (heads * block * block)
    if blocks <= max_blocks:
        return jax.vmap(jax.vmap(attend))(*arrays).reshape(q_bxnh.shape)
    arrays = tuple(a.reshape(-1, *a.shape[2:]) for a in arrays)
    attend_block = jax.checkpoint(lambda one: attend(*one))
    return jax.lax.map(attend_block, arrays, batch_size=max(max_blocks, 1)).reshape(q_bxnh.shape)


@jax.custom_vjp
def _tiled(q_nrh: Array, k_nrh: Array, v_nrh: Array, slices_r: Array) -> Array:
    return _forward(q_nrh, k_nrh, v_nrh, slices_r)[0]


def _forward(q_nrh: Array, k_nrh: Array, v_nrh: Array, slices_r: Array) -> tuple[Array, _Residuals]:
    heads, rows, _ = q_nrh.shape
    spans, scale = visits.spans(slices_r, TILE), q_nrh.shape[-1] ** -0.5
    tile_at = functools.partial(_tile, (q_nrh, k_nrh, v_nrh), slices_r)

    def attend_tile(query_tile: Array) -> tuple[Array, Array]:
        (q, _, _), q_slices = tile_at(query_tile)

        def visit(key_tile: Array, state: tuple[Array, Array, Array]) -> tuple[Array, ...]:
            top, total, out = state
            (_, k, v), k_slices = tile_at(key_tile)
            scores = jnp.einsum("nxh,nyh->nxy", q, k, preferred_element_type=_accumulator(q))
            same = q_slices[:, None] == k_slices[None]
            scores = jnp.where(same, scores * scale, MASKED)
            new_top = jnp.maximum(top, scores.max(-1))
            decay = jnp.exp(top - new_top)
            weights = jnp.where(same, jnp.exp(scores - new_top[..., None]), 0)
            part = jnp.einsum(
                "nxy,nyh->nxh", weights.astype(v.dtype), v, preferred_element_type=_accumulator(v)
            )
            return new_top, decay * total + weights.sum(-1), decay[..., None] * out + part

        zeros = jnp.zeros((heads, TILE), _accumulator(q))
        initial = zeros + MASKED, zeros, jnp.zeros(q.shape, _accumulator(q))
        first, last = spans.first[query_tile], spans.last[query_tile]
        top, total, out = jax.lax.fori_loop(first, last + 1, visit, initial)
        return (out / total[..., None]).astype(q.dtype), top + jnp.log(total)

    out, lse = jax.lax.map(attend_tile, jnp.arange(rows // TILE))
    out_nrh = einops.rearrange(out, "t n x h -> n (t x) h")
    lse_nr = einops.rearrange(lse, "t n x -> n (t x)")
    out_nrh, lse_nr = map(remat.named, (out_nrh, lse_nr), remat.VISION_ATTENTION)
    return out_nrh, (q_nrh, k_nrh, v_nrh, slices_r, out_nrh, lse_nr)


def _backward(residuals: _Residuals, d_out_nrh: Array) -> tuple[Array, Array, Array, None]:
    q_nrh, k_nrh, v_nrh, slices_r, out_nrh, lse_nr = residuals
    accumulator = _accumulator(q_nrh)
    spans, scale = visits.spans(slices_r, TILE), q_nrh.shape[-1] ** -0.5
    delta_nr = (out_nrh.astype(accumulator) * d_out_nrh).sum(-1)
    tile_at = functools.partial(_tile, (q_nrh, k_nrh, v_nrh, d_out_nrh, lse_nr, delta_nr), slices_r)
    product = functools.partial(jnp.einsum, preferred_element_type=accumulator)

    def visit_keys(
        sums: tuple[Array, Array], query_tile: Array
    ) -> tuple[tuple[Array, Array], Array]:
        (q, _, _, d_out, lse, delta), q_slices = tile_at(query_tile)

        def visit(key_tile: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, ...]:
            dq, dk_nrh, dv_nrh = sums
            (_, k, v, *_), k_slices = tile_at(key_tile)
            scores = product("nxh,nyh->nxy", q, k) * scale
            same = q_slices[:, None] == k_slices[None]
            weights = jnp.where(same, jnp.exp(scores - lse[..., None]), 0)
            d_weights = product("nxh,nyh->nxy", d_out, v)
            d_scores = (weights * (d_weights - delta[..., None]) * scale).astype(q.dtype)
            dq += product("nxy,nyh->nxh", d_scores, k)
            dk = product("nxy,nxh->nyh", d_scores, q)
            dv = product("nxy,nxh->nyh", weights.astype(q.dtype), d_out)
            return dq, _add_tile(dk_nrh, dk, key_tile), _add_tile(dv_nrh, dv, key_tile)

        first, last = spans.first[query_tile], spans.last[query_tile]
        zeros = jnp.zeros(q.shape, accumulator)
        dq, *sums = jax.lax.fori_loop(first, last + 1, visit, (zeros, *sums))
        return tuple(sums), dq.astype(q.dtype)

    zeros = jnp.zeros(k_nrh.shape, accumulator), jnp.zeros(v_nrh.shape, accumulator)
    (dk_nrh, dv_nrh), dq = jax.lax.scan(visit_keys, zeros, jnp.arange(len(slices_r) // TILE))
    dq_nrh = einops.rearrange(dq, "t n x h -> n (t x) h")
    return dq_nrh, dk_nrh.astype(k_nrh.dtype), dv_nrh.astype(v_nrh.dtype), None


_tiled.defvjp(_forward, _backward)


def _tile(
    arrays: Sequence[Array], slices_r: Array, index: Array
) -> tuple[tuple[Array, ...], Array]:
    """Tile `index` of arrays [N, R, ...], and the slice ids of its rows."""
    cut = lambda a, axis: jax.lax.dynamic_slice_in_dim(a, index * TILE, TILE, axis)  # noqa: E731
    return tuple(cut(a, 1) for a in arrays), cut(slices_r, 0)


def _add_tile(total_nrh: Array, part: Array, index: Array) -> Array:
    old = jax.lax.dynamic_slice_in_dim(total_nrh, index * TILE, TILE, 1)
    return jax.lax.dynamic_update_slice_in_dim(total_nrh, old + part, index * TILE, 1)


def _accumulator(array: Array) -> jnp.dtype:
    """float32, or float64 for float64 inputs."""
    return jnp.promote_types(jnp.float32, array.dtype)
