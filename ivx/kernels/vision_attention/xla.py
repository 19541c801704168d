"""Attention within slices for CPU and GPU, bounded in memory.

Blocks of up to `DENSE` rows are attended to whole, as many at a time as `SCORES` scores allow.
Larger ones are cut into tiles; each tile of queries goes over the tiles it shares a slice with
(`visits.py`), its softmax kept online:

    m' = max(m, max_y s_xy)    l' = e^(m - m') l + sum_y e^(s_xy - m')    o' likewise

The backward pass makes scores again from the log-sum-exp of each row,

    p = e^(s - lse)    ds = p (do v^T - rowsum(do o))    dq = ds k    dk = ds^T q    dv = p^T do

with sums of dk and dv in float32.

Shapes: [B, X, N, H] at the border, [N, R, H] with R = B X inside; y are keys.
"""

import functools

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.masking import MASKED
from ivx.kernels.vision_attention import visits
from ivx.parallel import remat

# Blocks of more rows are cut into tiles of `TILE`.
DENSE, TILE = 512, 256
# Scores of all heads that are alive at a time: 64 MiB in float32.
SCORES = 2**24


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """As the public function; what rows of slice 0 give is undefined."""
    if block <= DENSE:
        return _dense(q_bxnh, k_bxnh, v_bxnh, slices_bx, block)
    shape = q_bxnh.shape
    slices_r = visits.number(slices_bx)
    padding = -len(slices_r) % TILE
    q, k, v = (
        jnp.pad(einops.rearrange(a, "b x n h -> n (b x) h"), ((0, 0), (0, padding), (0, 0)))
        for a in (q_bxnh, k_bxnh, v_bxnh)
    )
    out = _tiled(q, k, v, jnp.pad(slices_r, (0, padding)))
    return einops.rearrange(out[:, : len(slices_r)], "n (b x) h -> b x n h", b=shape[0])


def _dense(q_bxnh, k_bxnh, v_bxnh, slices_bx, block):
    def attend(q, k, v, slices):
        scores = jnp.einsum("xnh,ynh->nxy", q, k, preferred_element_type=_exact(q))
        same = slices[:, None] == slices[None]
        weights = jnp.where(same, scores * q.shape[-1] ** -0.5, MASKED)
        return jnp.einsum("nxy,ynh->xnh", jax.nn.softmax(weights, -1).astype(v.dtype), v)

    rows, heads = slices_bx.shape[1], q_bxnh.shape[2]
    blocks = rows // block * slices_bx.shape[0]
    cut = lambda a: a.reshape(a.shape[0], -1, block, *a.shape[2:])  # noqa: E731
    arrays = tuple(map(cut, (q_bxnh, k_bxnh, v_bxnh, slices_bx)))
    many = SCORES // (heads * block * block)
    if blocks <= many:
        return jax.vmap(jax.vmap(attend))(*arrays).reshape(q_bxnh.shape)
    arrays = tuple(a.reshape(-1, *a.shape[2:]) for a in arrays)
    some = jax.checkpoint(lambda one: attend(*one))
    return jax.lax.map(some, arrays, batch_size=max(many, 1)).reshape(q_bxnh.shape)


@jax.custom_vjp
def _tiled(q_nrh: Array, k_nrh: Array, v_nrh: Array, slices_r: Array) -> Array:
    return _forward(q_nrh, k_nrh, v_nrh, slices_r)[0]


def _forward(q_nrh, k_nrh, v_nrh, slices_r):
    heads, rows, _ = q_nrh.shape
    tiles, scale = visits.spans(slices_r, TILE), q_nrh.shape[-1] ** -0.5
    at = functools.partial(_tile, (q_nrh, k_nrh, v_nrh), slices_r)

    def queries(number):
        (q, _, _), mine = at(number)

        def keys(other, state):
            top, total, out = state
            (_, k, v), theirs = at(other)
            scores = jnp.einsum("nxh,nyh->nxy", q, k, preferred_element_type=_exact(q))
            same = mine[:, None] == theirs[None]
            scores = jnp.where(same, scores * scale, MASKED)
            new = jnp.maximum(top, scores.max(-1))
            kept, weights = jnp.exp(top - new), jnp.where(same, jnp.exp(scores - new[..., None]), 0)
            part = jnp.einsum(
                "nxy,nyh->nxh", weights.astype(v.dtype), v, preferred_element_type=_exact(v)
            )
            return new, kept * total + weights.sum(-1), kept[..., None] * out + part

        zeros = jnp.zeros((heads, TILE), _exact(q))
        empty = zeros + MASKED, zeros, jnp.zeros(q.shape, _exact(q))
        first, last = tiles.first[number], tiles.last[number]
        top, total, out = jax.lax.fori_loop(first, last + 1, keys, empty)
        return (out / total[..., None]).astype(q.dtype), top + jnp.log(total)

    out, lse = jax.lax.map(queries, jnp.arange(rows // TILE))
    out_nrh = einops.rearrange(out, "t n x h -> n (t x) h")
    lse_nr = einops.rearrange(lse, "t n x -> n (t x)")
    out_nrh, lse_nr = map(remat.named, (out_nrh, lse_nr), remat.VISION_ATTENTION)
    return out_nrh, (q_nrh, k_nrh, v_nrh, slices_r, out_nrh, lse_nr)


def _backward(kept, d_out_nrh):
    q_nrh, k_nrh, v_nrh, slices_r, out_nrh, lse_nr = kept
    exact = _exact(q_nrh)
    tiles, scale = visits.spans(slices_r, TILE), q_nrh.shape[-1] ** -0.5
    slope_nr = (out_nrh.astype(exact) * d_out_nrh).sum(-1)
    at = functools.partial(_tile, (q_nrh, k_nrh, v_nrh, d_out_nrh, lse_nr, slope_nr), slices_r)
    product = functools.partial(jnp.einsum, preferred_element_type=exact)

    def queries(sums, number):
        (q, _, _, d_out, lse, slope), mine = at(number)

        def keys(other, sums):
            dq, dk_nrh, dv_nrh = sums
            (_, k, v, *_), theirs = at(other)
            scores = product("nxh,nyh->nxy", q, k) * scale
            same = mine[:, None] == theirs[None]
            weights = jnp.where(same, jnp.exp(scores - lse[..., None]), 0)
            d_weights = product("nxh,nyh->nxy", d_out, v)
            d_scores = (weights * (d_weights - slope[..., None]) * scale).astype(q.dtype)
            dq += product("nxy,nyh->nxh", d_scores, k)
            dk = product("nxy,nxh->nyh", d_scores, q)
            dv = product("nxy,nxh->nyh", weights.astype(q.dtype), d_out)
            return dq, _add(dk_nrh, dk, other), _add(dv_nrh, dv, other)

        first, last = tiles.first[number], tiles.last[number]
        empty = jnp.zeros(q.shape, exact)
        dq, *sums = jax.lax.fori_loop(first, last + 1, keys, (empty, *sums))
        return tuple(sums), dq.astype(q.dtype)

    zeros = jnp.zeros(k_nrh.shape, exact), jnp.zeros(v_nrh.shape, exact)
    (dk_nrh, dv_nrh), dq = jax.lax.scan(queries, zeros, jnp.arange(len(slices_r) // TILE))
    dq_nrh = einops.rearrange(dq, "t n x h -> n (t x) h")
    return dq_nrh, dk_nrh.astype(k_nrh.dtype), dv_nrh.astype(v_nrh.dtype), None


_tiled.defvjp(_forward, _backward)


def _tile(arrays, slices_r, number):
    """Tile `number` of arrays [N, R, ...], and the slices of its rows."""
    cut = lambda a, axis: jax.lax.dynamic_slice_in_dim(a, number * TILE, TILE, axis)  # noqa: E731
    return tuple(cut(a, 1) for a in arrays), cut(slices_r, 0)


def _add(total_nrh, part, number):
    old = jax.lax.dynamic_slice_in_dim(total_nrh, number * TILE, TILE, 1)
    return jax.lax.dynamic_update_slice_in_dim(total_nrh, old + part, number * TILE, 1)


def _exact(array: Array) -> jnp.dtype:
    """Float32, or what is more exact."""
    return jnp.promote_types(jnp.float32, array.dtype)
