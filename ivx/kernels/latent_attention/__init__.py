"""Latent attention (M2LA) over a whole sequence, for training and prefill.

    [k_nope, v] = latent W_up                                           per head, R -> H + H
    scores      = (q_nope . k_nope + q_rope . k_rope) / sqrt(H + P)     one k_rope for all heads
    out         = softmax(scores over earlier tokens of the segment) v

In InternVideo3 this is `MultiLatentAttention.forward`. Keys and values are made for a group of
heads at a time, and the backward pass makes them again from the latent, so that those of a long
sequence are never alive for all heads at once, nor those of several layers.

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
from ivx.kernels.dense_attention.visits import Seen, earlier_in_sample
from ivx.kernels.latent_attention.context import spread_latent_attention
from ivx.parallel import remat, zigzag

# Tokens times heads whose keys and values are alive at a time where Pallas kernels run, 1.6 GB in
# bfloat16: all 32 heads of 65,536 tokens, 8 of 262,144. Groups cost copies of queries and results.
ALIVE = 8 * 262_144
# Heads at a time where XLA makes the scores, tiles of which are alive for all of them.
GROUP = 8


def latent_attention(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
    key_norm: Callable[[Float[Array, "b n s h"]], Float[Array, "b n s h"]] | None = None,
    group: int | None = None,
) -> Float[Array, "b t n h"]:
    """Attention of every token over the earlier tokens of its segment.

    Softmax is in float32, the rest in the dtype of the inputs.

    Args:
      q_nope_btnh: queries without rope.
      q_rope_btnp: queries, rotated.
      latent_btr: what keys and values are made from.
      k_rope_btp: the key that all heads share, rotated.
      w_up_rnk: what makes them.
      segments_bt: sample of each token, a run of equal numbers; 0 is padding, which sees nothing
        and is not seen, whatever it holds, and gives 0. Where the mesh has devices along `context`,
        tokens are in the order of `ivx.parallel.zigzag`.
      key_norm: applied to each head's k_nope, on the last axis; exact QK-norm needs it.
      group: heads whose keys and values are alive at a time; the largest divisor of N up to it is
        taken. By default as many as ALIVE has room for, or GROUP.
    """
    real_bt1 = (segments_bt > 0)[..., None]
    # What padding holds, NaN perhaps, is not to come near a product.
    q_nope, q_rope = (jnp.where(real_bt1[..., None], q, 0) for q in (q_nope_btnh, q_rope_btnp))
    latent, k_rope = (jnp.where(real_bt1, a, 0) for a in (latent_btr, k_rope_btp))
    attend = functools.partial(attend_latent, key_norm=key_norm, group=group)
    arrays = q_nope, q_rope, latent, k_rope, w_up_rnk
    mesh = zigzag.current_mesh()
    if mesh is not None:
        out_btnh = spread_latent_attention(attend, mesh, *arrays, segments_bt)
    else:
        out_btnh = attend(*arrays, earlier_in_sample(segments_bt))
    return jnp.where(real_bt1[..., None], out_btnh, 0)


def attend_latent(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_bsr: Float[Array, "b s r"],
    k_rope_bsp: Float[Array, "b s p"],
    w_up_rnk: Float[Array, "r n k"],
    seen: Seen,
    key_norm: Callable | None = None,
    group: int | None = None,
) -> Float[Array, "b t n h"]:
    """As `latent_attention`, over the intervals of S latents that T queries see.

    Rows that see nothing are not defined.
    """
    nope = q_nope_btnh.shape[-1]
    scale = (nope + q_rope_btnp.shape[-1]) ** -0.5

    def attend_group(q_nope: Array, q_rope: Array, w_up: Array) -> Array:
        q_bnth = einops.rearrange(jnp.concatenate([q_nope, q_rope], -1), "b t n h -> b n t h")
        k_bnsh = _keys(latent_bsr, k_rope_bsp, w_up[..., :nope], key_norm)
        v_bnsh = jnp.einsum("bsr,rnh->bnsh", latent_bsr, w_up[..., nope:])
        return dense_attention.attend(q_bnth, k_bnsh, v_bnsh, seen, scale)

    # Of a group, the output and the sums of its softmax are kept; the backward pass makes keys and
    # values again, not scores' maxima.
    kept = jax.checkpoint_policies.save_only_these_names(*remat.ATTENTION)
    attend_group = jax.checkpoint(attend_group, policy=kept)
    heads, (packs, tokens) = q_nope_btnh.shape[2], latent_bsr.shape[:2]
    if group is None:
        group = ALIVE // max(1, packs * tokens) if choice.wanted() == "tpu" else GROUP
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
    key_norm: Callable | None,
) -> Float[Array, "b n s h"]:
    """[k_nope | k_rope] of each head.

    Where nothing comes between, by one product, [latent | k_rope] with [[W, 0], [0, 1]], which is
    exact in the precision of products (on a TPU bfloat16, of float32 too). By the compiler's
    estimate a layer takes 28% fewer cycles on v6e, 9% on v5p, than with the shared key written
    behind that of every head and its slopes added up over heads.
    """
    heads, nope = w_key_rnh.shape[1:]
    rope = k_rope_bsp.shape[-1]
    if key_norm is None:
        same = jnp.eye(rope, nope + rope, nope, dtype=w_key_rnh.dtype)
        same = jnp.broadcast_to(same[:, None], (rope, heads, nope + rope))
        both = jnp.concatenate([jnp.pad(w_key_rnh, ((0, 0), (0, 0), (0, rope))), same])
        return jnp.einsum("bse,enh->bnsh", jnp.concatenate([latent_bsr, k_rope_bsp], -1), both)
    k_nope = key_norm(jnp.einsum("bsr,rnh->bnsh", latent_bsr, w_key_rnh))
    shape = (*k_nope.shape[:3], rope)
    return jnp.concatenate([k_nope, jnp.broadcast_to(k_rope_bsp[:, None], shape)], -1)


def heads_at_a_time(heads: int, most: int) -> int:
    """The largest divisor of `heads` that is at most `most`, or 1."""
    return max(size for size in range(1, max(1, min(heads, most)) + 1) if heads % size == 0)
