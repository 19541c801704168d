"""Causal attention within the samples of a pack, on explicit keys and values.

    out_t = sum_s softmax_s(scale q_t . k_s) v_s        s: the sample of t up to t

Keys may be wider than values, and query heads may share key-value heads. No score matrix is ever
whole, forward or backward: what is kept for the backward pass is the output and the log of each
softmax's sum, under names by which `jax.checkpoint` can keep just these (`remat.ATTENTION`).

Shapes: q_btnh, k_btkh, v_btkv, N = K G, head by head q_bnth, k_bksh, v_bksv.
"""

import functools
import importlib
import math
import types

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.dense_attention.visits import Seen, earlier_in_sample, pad
from ivx.parallel import remat, zigzag


def causal_attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkv: Float[Array, "b t k v"],
    segments_bt: Int[Array, "b t"],
    scale: float,
) -> Float[Array, "b t n v"]:
    """Attention of every token over its sample up to itself.

    Softmax is in float32 (float64 for float64 inputs), products in the dtype of the inputs.

    Args:
      q_btnh: queries.
      k_btkh: keys.
      v_btkv: values.
      segments_bt: sample of each token, a run of equal numbers; 0 is padding, which sees nothing
        and is not seen, whatever it holds, and gives 0.
      scale: of the scores.
    """
    q, k, v = (einops.rearrange(a, "b t n h -> b n t h") for a in (q_btnh, k_btkh, v_btkv))
    real = segments_bt > 0
    q, k, v = (blank(a, real) for a in (q, k, v))
    mesh = zigzag.current_mesh()
    if mesh is not None and (zigzag.shards() > 1 or choice.wanted() == "tpu"):
        out_bntv = _spread(mesh, q, k, v, segments_bt, scale)
    else:
        out_bntv = attend(q, k, v, earlier_in_sample(segments_bt), scale)
    return einops.rearrange(blank(out_bntv, real), "b n t v -> b t n v")


def blank(x_bnth: Float[Array, "b n t h"], real_bt: Array) -> Float[Array, "b n t h"]:
    """0 in rows of padding: 0 times the NaN that may stand there would still be NaN."""
    return jnp.where(real_bt[:, None, :, None], x_bnth, 0)


def attend(
    q_bnth: Float[Array, "b n t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    seen: Seen,
    scale: float,
) -> Float[Array, "b n t v"]:
    """Attention of queries over the intervals of keys that they see, head by head.

    Rows that see nothing are not defined; T and S may differ.
    """
    length, keys = q_bnth.shape[2], k_bksh.shape[2]
    q = einops.rearrange(q_bnth, "b (k g) t h -> b k g t h", k=k_bksh.shape[1])
    constraint = ""
    if choice.wanted() == "tpu":
        constraint = _implementation("tpu").constraint(q, k_bksh, v_bksv)
    implementation = choice.pick("dense_attention", not constraint, constraint)
    block_for = _implementation(implementation).block_for
    more, more_keys = -length % block_for(length), -keys % block_for(keys)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, more), (0, 0)))
    k, v = (jnp.pad(a, ((0, 0), (0, 0), (0, more_keys), (0, 0))) for a in (k_bksh, v_bksv))
    out = _attend(q, k, v, pad(seen, length + more), scale, implementation)
    return einops.rearrange(out, "b k g t v -> b (k g) t v")[:, :, :length]


def _spread(mesh, q_bnth, k_bkth, v_bktv, segments_bt, scale) -> Array:
    """Over devices: heads along `tensor`; along `context` queries stay, keys and values travel.

    Key heads that `tensor` does not divide are whole on every device, which takes what it needs.
    """
    batch, shared = q_bnth.shape[0], q_bnth.shape[1] // k_bkth.shape[1]
    divided = k_bkth.shape[1] % mesh.shape["tensor"] == 0

    def one(q, k, v, segments):
        if not divided:
            k, v = (_of_own_heads(a, q.shape[1], shared) for a in (k, v))
        k, v = (zigzag.gather(a, 2) for a in (k, v))
        seen = earlier_in_sample(zigzag.gather(segments))
        return attend(q, k, v, Seen(*(zigzag.own(a) for a in seen)), scale)

    heads = zigzag.spec(mesh, batch, "tensor", zigzag.CONTEXT)
    key_heads = heads if divided else zigzag.spec(mesh, batch, None, zigzag.CONTEXT)
    packs = zigzag.spec(mesh, batch, zigzag.CONTEXT)
    spread = jax.shard_map(
        one,
        mesh=mesh,
        in_specs=(heads, key_heads, key_heads, packs),
        out_specs=heads,
        check_vma=False,
    )
    return spread(q_bnth, k_bkth, v_bktv, segments_bt)


def _of_own_heads(x_bksh: Array, heads: int, shared: int) -> Array:
    """Inside a `jax.shard_map`, of all key heads those of this device's `heads` query heads.

    One for each run of query heads that surely share it: heads 0 1 2 | 3 4 5 in pairs, on two
    devices, use key heads 0 0 1 | 1 2 2.
    """
    run = math.gcd(heads, shared)
    first = jax.lax.axis_index("tensor") * heads
    return x_bksh[:, (first + jnp.arange(0, heads, run)) // shared]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q_bkgth, k_bksh, v_bksv, seen, scale, implementation):
    return _forward(q_bkgth, k_bksh, v_bksv, seen, scale, implementation)[0]


def _forward(q, k, v, seen, scale, implementation):
    out, lse = _implementation(implementation).forward(q, k, v, seen, scale)
    out, lse = map(remat.named, (out, lse), remat.ATTENTION)
    return out, (q, k, v, seen, out, lse)


def _backward(scale, implementation, kept, d_out):
    q, k, v, seen, out, lse = kept
    delta = (out.astype(lse.dtype) * d_out.astype(lse.dtype)).sum(-1)
    backward = _implementation(implementation).backward
    return *backward(q, k, v, seen, scale, lse, delta, d_out), None


_attend.defvjp(_forward, _backward)


def _implementation(name: str) -> types.ModuleType:
    """`tpu.py` or `xla.py`; Pallas takes a second to import, which only a TPU has use for."""
    return importlib.import_module(f"{__name__}.{name}")
