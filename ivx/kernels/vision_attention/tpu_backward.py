"""The backward pass of attention within slices for TPU: two kernels over the same visits.

Scores are made again, transposed as in the forward kernel, from the log-sum-exp of each query:

    p^T = 2^(c s^T - lse)    dp^T = v do^T    ds^T = p^T (dp^T - rowsum(do o))

    keys       a tile of keys visits queries:    dv += p^T do    dk += ds^T q
    queries    a tile of queries visits keys:    dq^T += k^T ds^T

One kernel for all three would save two products of seven, and would need the sums of a whole block
of queries in VMEM, or in HBM to read and write at each visit.

    blocks     q, k, v, do, dk, dv [heads, TILE, H]; k^T, dq^T [heads, H, TILE]; lse [heads, TILE]
    FLOPs      8 TILE^2 H (keys) and 6 TILE^2 H (queries) a head and visit

Shapes: q_nrh, k_nrh, v_nrh, out_nhr, lse_nr (base 2); gradients like what they are of.
"""

import functools
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from ivx.kernels.masking import MASKED
from ivx.kernels.vision_attention import tpu_tiles
from ivx.kernels.vision_attention.tpu_tiles import (
    Steps,
    borders,
    contract,
    one_ahead,
    same_slice,
    scores,
)

_LOG2E = math.log2(math.e)


def gradients(
    q_nrh: Array, k_nrh: Array, v_nrh: Array, slices, pairs, out_nhr, lse_nr, d_out_nhr, interpret
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values."""
    slope_nr = (out_nhr.astype(jnp.float32) * d_out_nhr).sum(1)
    d_out_nrh = d_out_nhr.swapaxes(1, 2)
    steps = Steps(*q_nrh.shape, interpret)
    options = {"heads": steps.heads, "scale": q_nrh.shape[-1] ** -0.5}
    [dq_nhr] = steps.run(
        functools.partial(_queries_kernel, **options),
        "vision_attention_dq",
        pairs,
        [
            steps.rows("own", q_nrh),
            steps.rows("own", d_out_nrh),
            steps.numbers("own", lse_nr),
            steps.numbers("own", slope_nr),
            steps.slices("own", slices),
            steps.rows("other", k_nrh),
            steps.rows("other", v_nrh),
            steps.columns("other", k_nrh.swapaxes(1, 2)),
            steps.slices("other", slices),
        ],
        [steps.columns_out(q_nrh.dtype)],
        [pltpu.VMEM((steps.heads, q_nrh.shape[-1], tpu_tiles.TILE), jnp.float32)],
    )
    sums = pltpu.VMEM((steps.heads, tpu_tiles.TILE, q_nrh.shape[-1]), jnp.float32)
    dk_nrh, dv_nrh = steps.run(
        functools.partial(_keys_kernel, **options),
        "vision_attention_dkv",
        pairs,
        [
            steps.rows("own", k_nrh),
            steps.rows("own", v_nrh),
            steps.slices("own", slices),
            steps.rows("other", q_nrh),
            steps.rows("other", d_out_nrh),
            steps.numbers("other", lse_nr),
            steps.numbers("other", slope_nr),
            steps.slices("other", slices),
        ],
        [steps.rows_out(k_nrh.dtype), steps.rows_out(v_nrh.dtype)],
        [sums, sums],
    )
    return dq_nhr.swapaxes(1, 2), dk_nrh, dv_nrh


def _queries_kernel(
    pairs, q, d_out, lse, slope, mine, k, v, k_turned, theirs, dq, sums, *, heads, scale
):
    begins, ends = borders(pairs)

    @pl.when(begins)
    def _():
        sums[...] = jnp.zeros_like(sums)

    bias = jnp.where(same_slice(mine, theirs), 0.0, MASKED)
    for head, products in one_ahead(heads, _products(q, k, v, d_out)):
        _, ds = _slopes(products, lse, slope, bias, head, scale)
        sums[head] += contract(k_turned[head], ds.astype(q.dtype))

    @pl.when(ends)
    def _():
        dq[...] = (sums[...] * scale).astype(dq.dtype)


def _keys_kernel(
    pairs, k, v, mine, q, d_out, lse, slope, theirs, dk, dv, k_sums, v_sums, *, heads, scale
):
    begins, ends = borders(pairs)

    @pl.when(begins)
    def _():
        k_sums[...] = jnp.zeros_like(k_sums)
        v_sums[...] = jnp.zeros_like(v_sums)

    bias = jnp.where(same_slice(theirs, mine), 0.0, MASKED)
    for head, products in one_ahead(heads, _products(q, k, v, d_out)):
        p, ds = _slopes(products, lse, slope, bias, head, scale)
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        v_sums[head] += contract(p, d_out[head])
        k_sums[head] += contract(ds, q[head])

    @pl.when(ends)
    def _():
        dk[...] = (k_sums[...] * scale).astype(dk.dtype)
        dv[...] = v_sums[...].astype(dv.dtype)


def _products(q, k, v, d_out):
    """Of a head: k q^T and v do^T."""
    return lambda head: (scores(k[head], q[head]), scores(v[head], d_out[head]))


def _slopes(products, lse, slope, bias, head, scale) -> tuple[Array, Array]:
    """p^T and ds^T of one head, ds without its factor `scale`."""
    row = slice(head, head + 1)
    s, dp = products
    p = jnp.exp2(s * (scale * _LOG2E) + bias - lse[row])
    return p, p * (dp - slope[row])
