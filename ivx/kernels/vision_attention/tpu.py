"""Attention within slices on a TPU: the forward kernel; the backward is in `tpu_backward.py`.

A grid step is one visit: a tile of queries (`own`) and a tile of keys (`other`) for a group of
heads. The list of visits (`visits.py`) is prefetched and determines the length of the grid, so
tiles that share no slice cost nothing. Scores are transposed, keys down and queries across, so that
maxima and sums of the softmax reduce over sublanes and its statistics are rows:

    s^T = k q^T      [y, x]  float32              p^T = 2^(c s^T - m)     c = log2(e) / sqrt(H)
    o^T += v^T p^T   [h, x]  float32              l  += sum_y p^T

Heads are 72 wide, and arrays are stored row-minor (lanes are rows). So nothing is padded to 128,
and the products before and after use the layouts that XLA prefers. Keys are transposed in the core
once per visit.

Grid: (N / heads, visits).
Blocks: q^T, k^T, v^T, o^T [heads, H, TILE]; slices [1, TILE]; lse [heads, TILE].
VMEM: 16 heads in bf16, double-buffered: 4.5 MiB; o^T in float32: 1.1 MiB.
FLOPs: 4 TILE^2 H per head and visit.

Shapes: q_nhr, k_nhr, v_nhr, out_nhr with R = B X rows, padded to full tiles; x queries, y keys.
"""

import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.masking import MASKED
from ivx.kernels.vision_attention import tpu_backward, tpu_tiles, visits
from ivx.kernels.vision_attention.tpu_tiles import (
    Steps,
    contract,
    first_and_last,
    one_ahead,
    same_slice,
    scores,
)
from ivx.parallel import remat

_LOG2E = math.log2(math.e)
# Queries, keys, values, slice ids, visits, output, log-sum-exp.
_Residuals = tuple[Array, Array, Array, Array, visits.Visits, Array, Array]


def constraint(q_bxnh: Array | jax.ShapeDtypeStruct, block: int) -> str:
    """The constraint of the kernels that these queries violate, or an empty string."""
    if q_bxnh.dtype not in (jnp.float32, jnp.bfloat16):
        return f"dtype {q_bxnh.dtype} is neither float32 nor bfloat16"
    rows, width = q_bxnh.shape[1], q_bxnh.shape[3]
    if width % 8 or width > 128:
        return f"head width {width} is not a multiple of 8 up to 128"
    pairs = visits.max_pairs(rows, tpu_tiles.TILE, block)
    if pairs > visits.MOST_PAIRS or rows > visits.MOST_TILES * tpu_tiles.TILE:
        return f"{rows} rows in blocks of {block} may need {pairs} visits of tiles"
    return ""


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """Same contract as the public function; rows of slice 0 are undefined."""
    packs, rows, _, _ = q_bxnh.shape
    fits = visits.max_pairs(packs * rows, tpu_tiles.TILE, block) <= visits.MOST_PAIRS
    if packs > 1 and not (fits and packs * rows <= visits.MOST_TILES * tpu_tiles.TILE):
        attend = lambda pack: vision_attention(*(a[None] for a in pack), block)[0]  # noqa: E731
        return jax.lax.map(attend, (q_bxnh, k_bxnh, v_bxnh, slices_bx))
    slices_r = visits.global_ids(slices_bx)
    padding = -len(slices_r) % tpu_tiles.TILE
    slices_r = jnp.pad(slices_r, (0, padding))
    q, k, v = (
        jnp.pad(einops.rearrange(a, "b x n h -> n h (b x)"), ((0, 0), (0, 0), (0, padding)))
        for a in (q_bxnh, k_bxnh, v_bxnh)
    )
    pairs = visits.list_visits(slices_r, tpu_tiles.TILE, block)
    # Ids below 2^24 are exact in float32, in which the kernel can transpose them.
    slices = slices_r.astype(jnp.float32).reshape(-1, 1, tpu_tiles.TILE)
    out_nhr = _attend(q, k, v, slices, pairs, choice.interpret())
    return einops.rearrange(out_nhr[..., : packs * rows], "n h (b x) -> b x n h", b=packs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q_nhr: Array,
    k_nhr: Array,
    v_nhr: Array,
    slices: Array,
    pairs: visits.Visits,
    interpret: choice.Interpret,
) -> Array:
    return _forward(q_nhr, k_nhr, v_nhr, slices, pairs, interpret)[0]


def _forward(
    q_nhr: Array,
    k_nhr: Array,
    v_nhr: Array,
    slices: Array,
    pairs: visits.Visits,
    interpret: choice.Interpret,
) -> tuple[Array, _Residuals]:
    steps = Steps(*q_nhr.shape, interpret)
    out_nhr, lse_nr = steps.run(
        functools.partial(_kernel, heads=steps.heads, scale=_LOG2E * q_nhr.shape[1] ** -0.5),
        "vision_attention",
        pairs,
        [
            steps.patches("own", q_nhr),
            steps.patches("other", k_nhr),
            steps.patches("other", v_nhr),
            steps.slices("own", slices),
            steps.slices("other", slices),
        ],
        [steps.patches_out(q_nhr.dtype), steps.rows_out()],
        [
            pltpu.VMEM((steps.heads, tpu_tiles.TILE), jnp.float32),
            pltpu.VMEM((steps.heads, tpu_tiles.TILE), jnp.float32),
            pltpu.VMEM((steps.heads, q_nhr.shape[1], tpu_tiles.TILE), jnp.float32),
        ],
    )
    out_nhr, lse_nr = map(remat.named, (out_nhr, lse_nr), remat.VISION_ATTENTION)
    return out_nhr, (q_nhr, k_nhr, v_nhr, slices, pairs, out_nhr, lse_nr)


def _kernel(
    pairs: Any,
    q: Any,
    k: Any,
    v: Any,
    q_slices: Any,
    k_slices: Any,
    out: Any,
    lse: Any,
    top: Any,
    total: Any,
    acc: Any,
    *,
    heads: int,
    scale: float,
) -> None:
    first, last = first_and_last(pairs)

    @pl.when(first)
    def _() -> None:
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    bias = jnp.where(same_slice(q_slices, k_slices), 0.0, MASKED)
    for head, product in one_ahead(heads, lambda head: scores(k[head], q[head])):
        row = slice(head, head + 1)
        s = product * scale + bias
        old_top = top[row]
        new_top = jnp.maximum(old_top, s.max(0, keepdims=True))
        p, decay = jnp.exp2(s - new_top), jnp.exp2(old_top - new_top)
        top[row] = new_top
        total[row] = decay * total[row] + p.sum(0, keepdims=True)
        acc[head] = decay * acc[head] + contract(v[head], p.astype(v.dtype))

    @pl.when(last)
    def _() -> None:
        for head in range(heads):
            row = slice(head, head + 1)
            out[head] = (acc[head] / total[row]).astype(out.dtype)
            lse[row] = top[row] + jnp.log2(total[row])


def _backward(
    interpret: choice.Interpret, residuals: _Residuals, d_out_nhr: Array
) -> tuple[Array | None, ...]:
    gradients = tpu_backward.gradients(*residuals, d_out_nhr, interpret)
    return (*gradients, None, None)


_attend.defvjp(_forward, _backward)
