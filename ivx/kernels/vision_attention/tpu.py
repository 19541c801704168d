"""Attention within slices as Pallas kernels for TPU: forward here, backward in `tpu_backward.py`.

A grid step is one visit: a tile of queries (`own`) meets a tile of keys (`other`) for a group of
heads; the list of visits (`visits.py`) is prefetched, and the grid is as long as there are visits,
so that tiles that share no slice cost nothing. Scores are made transposed, keys down and queries
across, so that maxima and sums of the softmax run over sublanes and its statistics are rows:

    s^T = k q^T      [y, x]  float32              p^T = 2^(c s^T - m)     c = log2(e) / sqrt(H)
    o^T += v^T p^T   [h, x]  float32              l  += sum_y p^T

Heads are 72 wide, and rows are lanes: so nothing is padded to 128, and products before and after
give and take arrays as XLA lays them. Keys are turned in the core, once a visit.

    grid       (N / heads, visits)
    blocks     q^T, k^T, v^T, o^T [heads, H, TILE]; slices [1, TILE]; lse [heads, TILE]
    VMEM       16 heads of bf16, two buffers each: 4.5 MiB, o^T in float32 1.1 MiB
    FLOPs      4 TILE^2 H a head and visit

Shapes: q_nhr, k_nhr, v_nhr, out_nhr with R = B X rows, padded to whole tiles; x queries, y keys.
"""

import functools
import math

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
    borders,
    contract,
    one_ahead,
    same_slice,
    scores,
)
from ivx.parallel import remat

_LOG2E = math.log2(math.e)


def constraint(q_bxnh: Float[Array, "b x n h"], block: int) -> str:
    """What of these queries the kernels do not take; empty if they take them."""
    if q_bxnh.dtype not in (jnp.float32, jnp.bfloat16):
        return f"{q_bxnh.dtype} is neither float32 nor bfloat16"
    rows, width = q_bxnh.shape[1], q_bxnh.shape[3]
    if width % 8 or width > 128:
        return f"heads {width} wide, not 8, 16, ... 128"
    pairs = visits.room(rows, tpu_tiles.TILE, block)
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
    """As the public function; what rows of slice 0 give is undefined."""
    packs, rows, _, _ = q_bxnh.shape
    together = visits.room(packs * rows, tpu_tiles.TILE, block) <= visits.MOST_PAIRS
    if packs > 1 and not (together and packs * rows <= visits.MOST_TILES * tpu_tiles.TILE):
        one = lambda pack: vision_attention(*(a[None] for a in pack), block)[0]  # noqa: E731
        return jax.lax.map(one, (q_bxnh, k_bxnh, v_bxnh, slices_bx))
    slices_r = visits.number(slices_bx)
    padding = -len(slices_r) % tpu_tiles.TILE
    slices_r = jnp.pad(slices_r, (0, padding))
    q, k, v = (
        jnp.pad(einops.rearrange(a, "b x n h -> n h (b x)"), ((0, 0), (0, 0), (0, padding)))
        for a in (q_bxnh, k_bxnh, v_bxnh)
    )
    pairs = visits.visits(slices_r, tpu_tiles.TILE, block)
    # Numbers below 2^24 are exact in float32, which turns from a row into a column.
    slices = slices_r.astype(jnp.float32).reshape(-1, 1, tpu_tiles.TILE)
    out_nhr = _attend(q, k, v, slices, pairs, choice.interpret())
    return einops.rearrange(out_nhr[..., : packs * rows], "n h (b x) -> b x n h", b=packs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q_nhr, k_nhr, v_nhr, slices, pairs, interpret):
    return _forward(q_nhr, k_nhr, v_nhr, slices, pairs, interpret)[0]


def _forward(q_nhr, k_nhr, v_nhr, slices, pairs, interpret):
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
        [steps.patches_out(q_nhr.dtype), steps.numbers_out()],
        [
            pltpu.VMEM((steps.heads, tpu_tiles.TILE), jnp.float32),
            pltpu.VMEM((steps.heads, tpu_tiles.TILE), jnp.float32),
            pltpu.VMEM((steps.heads, q_nhr.shape[1], tpu_tiles.TILE), jnp.float32),
        ],
    )
    out_nhr, lse_nr = map(remat.named, (out_nhr, lse_nr), remat.VISION_ATTENTION)
    return out_nhr, (q_nhr, k_nhr, v_nhr, slices, pairs, out_nhr, lse_nr)


def _kernel(pairs, q, k, v, mine, theirs, out, lse, top, total, sums, *, heads, scale):
    begins, ends = borders(pairs)

    @pl.when(begins)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    bias = jnp.where(same_slice(mine, theirs), 0.0, MASKED)
    for head, product in one_ahead(heads, lambda head: scores(k[head], q[head])):
        row = slice(head, head + 1)
        s = product * scale + bias
        old = top[row]
        new = jnp.maximum(old, s.max(0, keepdims=True))
        p, kept = jnp.exp2(s - new), jnp.exp2(old - new)
        top[row] = new
        total[row] = kept * total[row] + p.sum(0, keepdims=True)
        sums[head] = kept * sums[head] + contract(v[head], p.astype(v.dtype))

    @pl.when(ends)
    def _():
        for head in range(heads):
            row = slice(head, head + 1)
            out[head] = (sums[head] / total[row]).astype(out.dtype)
            lse[row] = top[row] + jnp.log2(total[row])


def _backward(interpret, kept, d_out_nhr):
    gradients = tpu_backward.gradients(*kept, d_out_nhr, interpret)
    return (*gradients, None, None)


_attend.defvjp(_forward, _backward)
