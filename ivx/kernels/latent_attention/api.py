"""Latent attention (M2LA) over full sequences, for training and prefill.

    [k_nope, v] = latent W_up                                           per head, R -> H + H
    scores      = (q_nope . k_nope + q_rope . k_rope) / sqrt(H + P)     all heads share k_rope
    out         = softmax(scores over earlier tokens of the segment) v

In InternVideo3 this is `MultiLatentAttention.forward`. Keys and values are computed for one group
of heads at a time, and the backward pass recomputes them from the latent. So the keys and values of
a long sequence are never live for all heads or for several layers.

Shapes: q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk with k = H (key) + H (value),
out_btnh.
"""

import functools
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import choice, dense_attention
from ivx.kernels.dense_attention.visits import KeyRange, causal_key_range
from ivx.kernels.latent_attention.context import attend_on_mesh
from ivx.parallel import remat, sharding

# Maximum tokens x heads with live keys and values if Pallas kernels run, 1.6 GB in bfloat16: all 32
# heads of 65,536 tokens, or 8 heads of 262,144. Each group costs copies of queries and outputs.
ALIVE = 8 * 262_144
# Heads per group if XLA computes the scores, whose tiles are live for all heads of a group.
GROUP = 8


def latent_attention(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
    key_norm: Callable[[Array], Array] | None = None,
    group: int | None = None,
) -> Float[Array, "b t n h"]:
    """Attention of every token over its segment up to and including itself.

    Softmax is in float32, the rest in the dtype of the inputs.

    Args:
      q_nope_btnh: the part of the queries without rope.
      q_rope_btnp: the part of the queries with rope, rotated.
      latent_btr: shared latent of keys and values.
      k_rope_btp: rotated key part that all heads share.
      w_up_rnk: up-projection from the latent to keys and values.
      segments_bt: sample id of each token. The tokens of a sample are contiguous. 0 is padding: it
        attends to nothing, is not attended to even if it holds NaN, and yields 0. If the mesh has
        several devices along `context`, tokens are in the order of `ivx.parallel.zigzag`.
      key_norm: normalization of each head's k_nope [B, N, S, H] over the last axis, for exact
        QK-norm.
      group: maximum heads with live keys and values. The largest divisor of N up to it is used. The
        default is the number of heads that ALIVE allows, or GROUP.
    """
    real_bt1 = (segments_bt > 0)[..., None]
    # Padding may hold NaN, which must not enter a product.
    q_nope, q_rope = (jnp.where(real_bt1[..., None], q, 0) for q in (q_nope_btnh, q_rope_btnp))
    latent, k_rope = (jnp.where(real_bt1, a, 0) for a in (latent_btr, k_rope_btp))
    attend = functools.partial(attend_latent, key_norm=key_norm, group=group)
    arrays = q_nope, q_rope, latent, k_rope, w_up_rnk
    mesh = sharding.current_mesh()
    if mesh is not None:
        out_btnh = attend_on_mesh(attend, mesh, *arrays, segments_bt)
    else:
        out_btnh = attend(*arrays, causal_key_range(segments_bt))
    return jnp.where(real_bt1[..., None], out_btnh, 0)


def attend_latent(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_bsr: Float[Array, "b s r"],
    k_rope_bsp: Float[Array, "b s p"],
    w_up_rnk: Float[Array, "r n k"],
    key_range: KeyRange,
    key_norm: Callable[[Array], Array] | None = None,
    group: int | None = None,
) -> Float[Array, "b t n h"]:
    """`latent_attention` of T queries over a given range of the S latents.

    Rows with an empty range are undefined.
    """
    nope = q_nope_btnh.shape[-1]
    scale = (nope + q_rope_btnp.shape[-1]) ** -0.5

    def attend_group(q_nope: Array, q_rope: Array, w_up: Array) -> Array:
        q_bnth = einops.rearrange(jnp.concatenate([q_nope, q_rope], -1), "b t n h -> b n t h")
        k_bnsh = _keys(latent_bsr, k_rope_bsp, w_up[..., :nope], key_norm)
        v_bnsh = jnp.einsum("bsr,rnh->bnsh", latent_bsr, w_up[..., nope:])
        return dense_attention.attend(q_bnth, k_bnsh, v_bnsh, key_range, scale)

    # Saves the output and the log-sum-exp of each group. The backward pass recomputes keys and
    # values, but not the forward attention.
    policy = jax.checkpoint_policies.save_only_these_names(*remat.ATTENTION)
    attend_group = jax.checkpoint(attend_group, policy=policy)
    heads, (packs, tokens) = q_nope_btnh.shape[2], latent_bsr.shape[:2]
    if group is None:
        group = ALIVE // max(1, packs * tokens) if choice.preferred() == "tpu" else GROUP
    count = heads // heads_at_a_time(heads, group)
    if count == 1:
        return einops.rearrange(
            attend_group(q_nope_btnh, q_rope_btnp, w_up_rnk), "b n t h -> b t n h"
        )
    groups = [
        einops.rearrange(array, "... (c n) h -> c ... n h", c=count)
        for array in (q_nope_btnh, q_rope_btnp, w_up_rnk)
    ]
    _, out = jax.lax.scan(lambda _, part: (None, attend_group(*part)), None, groups)
    return einops.rearrange(out, "c b n t h -> b t (c n) h")


def _keys(
    latent_bsr: Float[Array, "b s r"],
    k_rope_bsp: Float[Array, "b s p"],
    w_key_rnh: Float[Array, "r n h"],
    key_norm: Callable[[Array], Array] | None,
) -> Float[Array, "b n s h2"]:
    """[k_nope | k_rope] of each head.

    Without `key_norm`, this is one product, [latent | k_rope] with [[W, 0], [0, 1]]. The identity
    part is exact in the precision of the products (bfloat16 on a TPU, also for float32 inputs). By
    the compiler's estimate, a layer takes 28% fewer cycles on v6e and 9% fewer on v5p than with the
    shared key concatenated to that of every head and its gradients summed over heads.
    """
    heads, nope = w_key_rnh.shape[1:]
    rope = k_rope_bsp.shape[-1]
    if key_norm is None:
        identity = jnp.eye(rope, nope + rope, nope, dtype=w_key_rnh.dtype)
        identity = jnp.broadcast_to(identity[:, None], (rope, heads, nope + rope))
        combined = jnp.concatenate([jnp.pad(w_key_rnh, ((0, 0), (0, 0), (0, rope))), identity])
        return jnp.einsum("bse,enh->bnsh", jnp.concatenate([latent_bsr, k_rope_bsp], -1), combined)
    k_nope = key_norm(jnp.einsum("bsr,rnh->bnsh", latent_bsr, w_key_rnh))
    shape = (*k_nope.shape[:3], rope)
    return jnp.concatenate([k_nope, jnp.broadcast_to(k_rope_bsp[:, None], shape)], -1)


def heads_at_a_time(heads: int, most: int) -> int:
    """The largest divisor of `heads` that is at most `most`; at least 1."""
    return max(size for size in range(1, max(1, min(heads, most)) + 1) if heads % size == 0)
