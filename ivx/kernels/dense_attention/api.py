"""Causal attention within the samples of a pack, with explicit keys and values.

    out_t = sum_s softmax_s(scale q_t . k_s) v_s        s <= t, in the sample of t

Keys may be wider than values, and query heads may share key-value heads (GQA). The full score
matrix is never materialized, forward or backward. The residuals are the output and the log-sum-exp
of each softmax. They are named so that `jax.checkpoint` can save exactly these (`remat.ATTENTION`).

Shapes: q_btnh, k_btkh, v_btkv with N = K G; head-major q_bnth, k_bksh, v_bksv.
"""

import functools
import math
import types

import einops
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.dense_attention import xla
from ivx.kernels.dense_attention.visits import KeyRange, causal_key_range, pad
from ivx.parallel import remat, sharding, zigzag

# Queries, keys, values, visible keys, output, log-sum-exp.
_Residuals = tuple[Array, Array, Array, KeyRange, Array, Array]


def causal_attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkv: Float[Array, "b t k v"],
    segments_bt: Int[Array, "b t"],
    scale: float,
) -> Float[Array, "b t n v"]:
    """Attention of every token over its sample up to and including itself.

    Softmax is in float32 (float64 for float64 inputs), products in the dtype of the inputs.

    Args:
      q_btnh: queries.
      k_btkh: keys.
      v_btkv: values.
      segments_bt: sample id of each token. The tokens of a sample are contiguous. 0 is padding: it
        attends to nothing, is not attended to even if it holds NaN, and yields 0.
      scale: scale of the scores.
    """
    q, k, v = (einops.rearrange(a, "b t n h -> b n t h") for a in (q_btnh, k_btkh, v_btkv))
    real = segments_bt > 0
    q, k, v = (zero_padding(a, real) for a in (q, k, v))
    mesh = sharding.current_mesh()
    if mesh is not None and (zigzag.shards() > 1 or choice.preferred() == "tpu"):
        out_bntv = _attend_on_mesh(mesh, q, k, v, segments_bt, scale)
    else:
        out_bntv = attend(q, k, v, causal_key_range(segments_bt), scale)
    return einops.rearrange(zero_padding(out_bntv, real), "b n t v -> b t n v")


def zero_padding(x_bnth: Float[Array, "b n t h"], real_bt: Array) -> Float[Array, "b n t h"]:
    """Zeros in the rows of padding. Padding may hold NaN, and 0 times NaN is NaN."""
    return jnp.where(real_bt[:, None, :, None], x_bnth, 0)


def attend(
    q_bnth: Float[Array, "b n t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    key_range: KeyRange,
    scale: float,
) -> Float[Array, "b n t v"]:
    """Attention of each query over its range of keys, in head-major layout.

    T and S may differ. Rows with an empty range are undefined.
    """
    length, keys = q_bnth.shape[2], k_bksh.shape[2]
    q = einops.rearrange(q_bnth, "b (k g) t h -> b k g t h", k=k_bksh.shape[1])
    constraint = ""
    if choice.preferred() == "tpu":
        constraint = _implementation("tpu").constraint(q, k_bksh, v_bksv)
    implementation = choice.pick("dense_attention", not constraint, constraint)
    block_for = _implementation(implementation).block_for
    q_padding, k_padding = -length % block_for(length), -keys % block_for(keys)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, q_padding), (0, 0)))
    k, v = (jnp.pad(a, ((0, 0), (0, 0), (0, k_padding), (0, 0))) for a in (k_bksh, v_bksv))
    out = _attend(q, k, v, pad(key_range, length + q_padding), scale, implementation)
    return einops.rearrange(out, "b k g t v -> b (k g) t v")[:, :, :length]


def _attend_on_mesh(
    mesh: AbstractMesh,
    q_bnth: Array,
    k_bkth: Array,
    v_bktv: Array,
    segments_bt: Array,
    scale: float,
) -> Array:
    """Shards heads over `tensor`. Along `context` queries stay; keys and values are all-gathered.

    If `tensor` does not divide the key heads, they are replicated and each device selects its own.
    """
    batch, group = q_bnth.shape[0], q_bnth.shape[1] // k_bkth.shape[1]
    divisible = k_bkth.shape[1] % mesh.shape["tensor"] == 0

    def local(q: Array, k: Array, v: Array, segments: Array) -> Array:
        if not divisible:
            k, v = (_local_key_heads(a, q.shape[1], group) for a in (k, v))
        k, v = (zigzag.gather(a, 2) for a in (k, v))
        key_range = causal_key_range(zigzag.gather(segments))
        return attend(q, k, v, KeyRange(*(zigzag.local_chunks(a) for a in key_range)), scale)

    heads = zigzag.spec(mesh, batch, "tensor", zigzag.CONTEXT)
    key_heads = heads if divisible else zigzag.spec(mesh, batch, None, zigzag.CONTEXT)
    packs = zigzag.spec(mesh, batch, zigzag.CONTEXT)
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(heads, key_heads, key_heads, packs),
        out_specs=heads,
        check_vma=False,
    )
    return mapped(q_bnth, k_bkth, v_bktv, segments_bt)


def _local_key_heads(x_bksh: Array, heads: int, group: int) -> Array:
    """Inside `jax.shard_map`: the key heads that serve this device's `heads` query heads.

    Returns one key head per run of query heads that share it on every device. For query heads
    0 1 2 | 3 4 5 in pairs on two devices, the key heads are 0 0 1 | 1 2 2.
    """
    run = math.gcd(heads, group)
    first = jax.lax.axis_index("tensor") * heads
    return x_bksh[:, (first + jnp.arange(0, heads, run)) // group]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
    q_bkgth: Array,
    k_bksh: Array,
    v_bksv: Array,
    key_range: KeyRange,
    scale: float,
    implementation: str,
) -> Array:
    return _forward(q_bkgth, k_bksh, v_bksv, key_range, scale, implementation)[0]


def _forward(
    q: Array, k: Array, v: Array, key_range: KeyRange, scale: float, implementation: str
) -> tuple[Array, _Residuals]:
    out, lse = _implementation(implementation).forward(q, k, v, key_range, scale)
    out, lse = map(remat.named, (out, lse), remat.ATTENTION)
    return out, (q, k, v, key_range, out, lse)


def _backward(
    scale: float, implementation: str, residuals: _Residuals, d_out: Array
) -> tuple[Array, Array, Array, None]:
    q, k, v, key_range, out, lse = residuals
    delta = (out.astype(lse.dtype) * d_out.astype(lse.dtype)).sum(-1)
    backward = _implementation(implementation).backward
    return *backward(q, k, v, key_range, scale, lse, delta, d_out), None


_attend.defvjp(_forward, _backward)


def _implementation(name: str) -> types.ModuleType:
    if name == "xla":
        return xla
    # Importing Pallas takes a second, and only TPUs need it.
    from ivx.kernels.dense_attention import tpu

    return tpu
