"""The backward pass of attention within slices for TPU: two kernels over the same visits.

Scores are made again, transposed as in the forward kernel, from the log-sum-exp of each query:

    p^T = 2^(c s^T - lse)    dp^T = v do^T    ds^T = p^T (dp^T - rowsum(do o))

    keys       a tile of keys visits queries:    dv^T += do^T p    dk^T += q^T ds
    queries    a tile of queries visits keys:    dq^T += k^T ds^T

Keys and values are turned in the core at every visit. One kernel for all three would save two
products of seven, and would need the sums of a whole block of queries in VMEM, or in HBM to read
and write at each visit.

    blocks     q^T, k^T, v^T, do^T and their gradients [heads, H, TILE]; lse [heads, TILE]
    FLOPs      8 TILE^2 H (keys) and 6 TILE^2 H (queries) a head and visit

Shapes: q_nhr, k_nhr, v_nhr, out_nhr, lse_nr (base 2); gradients like what they are of.
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
    contract_rows,
    one_ahead,
    same_slice,
    scores,
)

_LOG2E = math.log2(math.e)


def gradients(
    q_nhr: Array, k_nhr: Array, v_nhr: Array, slices, pairs, out_nhr, lse_nr, d_out_nhr, interpret
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values."""
    slope_nr = (out_nhr.astype(jnp.float32) * d_out_nhr).sum(1)
    steps = Steps(*q_nhr.shape, interpret)
    options = {"heads": steps.heads, "scale": q_nhr.shape[1] ** -0.5}
    sums = pltpu.VMEM((steps.heads, q_nhr.shape[1], tpu_tiles.TILE), jnp.float32)
    [dq_nhr] = steps.run(
        functools.partial(_queries_kernel, **options),
        "vision_attention_dq",
        pairs,
        [
            steps.patches("own", q_nhr),
            steps.patches("own", d_out_nhr),
            steps.numbers("own", lse_nr),
            steps.numbers("own", slope_nr),
            steps.slices("own", slices),
            steps.patches("other", k_nhr),
            steps.patches("other", v_nhr),
            steps.slices("other", slices),
        ],
        [steps.patches_out(q_nhr.dtype)],
        [sums],
    )
    dk_nhr, dv_nhr = steps.run(
        functools.partial(_keys_kernel, **options),
        "vision_attention_dkv",
        pairs,
        [
            steps.patches("own", k_nhr),
            steps.patches("own", v_nhr),
            steps.slices("own", slices),
            steps.patches("other", q_nhr),
            steps.patches("other", d_out_nhr),
            steps.numbers("other", lse_nr),
            steps.numbers("other", slope_nr),
            steps.slices("other", slices),
        ],
        [steps.patches_out(k_nhr.dtype), steps.patches_out(v_nhr.dtype)],
        [sums, sums],
    )
    return dq_nhr, dk_nhr, dv_nhr


def _queries_kernel(pairs, q, d_out, lse, slope, mine, k, v, theirs, dq, sums, *, heads, scale):
    begins, ends = borders(pairs)

    @pl.when(begins)
    def _():
        sums[...] = jnp.zeros_like(sums)

    bias = jnp.where(same_slice(mine, theirs), 0.0, MASKED)
    for head, products in one_ahead(heads, _products(q, k, v, d_out)):
        _, ds = _slopes(products, lse, slope, bias, head, scale)
        sums[head] += contract(k[head], ds.astype(q.dtype))

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
        v_sums[head] += contract_rows(d_out[head], p)
        k_sums[head] += contract_rows(q[head], ds)

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
