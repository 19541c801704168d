"""Attention within slices on a TPU: two backward kernels over the same visits.

Scores are recomputed, transposed as in the forward kernel, from the log-sum-exp of each query:

    p^T = 2^(c s^T - lse)    dp^T = v do^T    ds^T = p^T (dp^T - rowsum(do o))

    keys       a tile of keys visits queries:    dv^T += do^T p    dk^T += q^T ds
    queries    a tile of queries visits keys:    dq^T += k^T ds^T

Keys and values are transposed in the core at every visit. A single kernel for all three gradients
would save two of seven products, but would need the sums of a full block of queries in VMEM, or
read and write them in HBM at every visit.

Grid: (N / heads, visits).
Blocks: q^T, k^T, v^T, do^T and their gradients [heads, H, TILE]; lse [heads, TILE].
VMEM: 16 heads in bf16, double-buffered: 5.6 MiB (queries) or 6.8 MiB (keys); float32 sums of 1.1
MiB per gradient.
FLOPs: 8 TILE^2 H (keys) and 6 TILE^2 H (queries) per head and visit.

Shapes: q_nhr, k_nhr, v_nhr, out_nhr, lse_nr (base 2); gradients have the shape of their primals.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from ivx.kernels.choice import Interpret
from ivx.kernels.masking import MASKED
from ivx.kernels.vision_attention import tpu_tiles
from ivx.kernels.vision_attention.tpu_tiles import (
    Steps,
    contract,
    contract_rows,
    first_and_last,
    one_ahead,
    same_slice,
    scores,
)
from ivx.kernels.vision_attention.visits import Visits

_LOG2E = math.log2(math.e)


def gradients(
    q_nhr: Array,
    k_nhr: Array,
    v_nhr: Array,
    slices: Array,
    pairs: Visits,
    out_nhr: Array,
    lse_nr: Array,
    d_out_nhr: Array,
    interpret: Interpret,
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values."""
    delta_nr = (out_nhr.astype(jnp.float32) * d_out_nhr).sum(1)
    steps = Steps(*q_nhr.shape, interpret)
    options = {"heads": steps.heads, "scale": q_nhr.shape[1] ** -0.5}
    acc = pltpu.VMEM((steps.heads, q_nhr.shape[1], tpu_tiles.TILE), jnp.float32)
    [dq_nhr] = steps.run(
        functools.partial(_queries_kernel, **options),
        "vision_attention_dq",
        pairs,
        [
            steps.patches("own", q_nhr),
            steps.patches("own", d_out_nhr),
            steps.rows("own", lse_nr),
            steps.rows("own", delta_nr),
            steps.slices("own", slices),
            steps.patches("other", k_nhr),
            steps.patches("other", v_nhr),
            steps.slices("other", slices),
        ],
        [steps.patches_out(q_nhr.dtype)],
        [acc],
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
            steps.rows("other", lse_nr),
            steps.rows("other", delta_nr),
            steps.slices("other", slices),
        ],
        [steps.patches_out(k_nhr.dtype), steps.patches_out(v_nhr.dtype)],
        [acc, acc],
    )
    return dq_nhr, dk_nhr, dv_nhr


def _queries_kernel(
    pairs: Any,
    q: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    q_slices: Any,
    k: Any,
    v: Any,
    k_slices: Any,
    dq: Any,
    acc: Any,
    *,
    heads: int,
    scale: float,
) -> None:
    first, last = first_and_last(pairs)

    @pl.when(first)
    def _() -> None:
        acc[...] = jnp.zeros_like(acc)

    bias = jnp.where(same_slice(q_slices, k_slices), 0.0, MASKED)
    for head, products in one_ahead(heads, _products(q, k, v, d_out)):
        _, ds = _score_gradients(products, lse, delta, bias, head, scale)
        acc[head] += contract(k[head], ds.astype(q.dtype))

    @pl.when(last)
    def _() -> None:
        dq[...] = (acc[...] * scale).astype(dq.dtype)


def _keys_kernel(
    pairs: Any,
    k: Any,
    v: Any,
    k_slices: Any,
    q: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    q_slices: Any,
    dk: Any,
    dv: Any,
    k_acc: Any,
    v_acc: Any,
    *,
    heads: int,
    scale: float,
) -> None:
    first, last = first_and_last(pairs)

    @pl.when(first)
    def _() -> None:
        k_acc[...] = jnp.zeros_like(k_acc)
        v_acc[...] = jnp.zeros_like(v_acc)

    bias = jnp.where(same_slice(q_slices, k_slices), 0.0, MASKED)
    for head, products in one_ahead(heads, _products(q, k, v, d_out)):
        p, ds = _score_gradients(products, lse, delta, bias, head, scale)
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        v_acc[head] += contract_rows(d_out[head], p)
        k_acc[head] += contract_rows(q[head], ds)

    @pl.when(last)
    def _() -> None:
        dk[...] = (k_acc[...] * scale).astype(dk.dtype)
        dv[...] = v_acc[...].astype(dv.dtype)


def _products(q: Any, k: Any, v: Any, d_out: Any) -> Callable[[int], tuple[Array, Array]]:
    """A function of the head: (k q^T, v do^T)."""
    return lambda head: (scores(k[head], q[head]), scores(v[head], d_out[head]))


def _score_gradients(
    products: tuple[Array, Array], lse: Any, delta: Any, bias: Array, head: int, scale: float
) -> tuple[Array, Array]:
    """p^T and ds^T of one head, ds without its factor `scale`."""
    row = slice(head, head + 1)
    s, dp = products
    p = jnp.exp2(s * (scale * _LOG2E) + bias - lse[row])
    return p, p * (dp - delta[row])
