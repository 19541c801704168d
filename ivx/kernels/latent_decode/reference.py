"""Attention over a latent cache written out, for tests: whole scores, any float dtype."""

import jax.numpy as jnp

from ivx.kernels import masking


def attend(q_btne, entries_bse, lengths_b, rank, scale):
    """(context [B, T, N, R], log-sum-exp [B, T, N]) in the dtype of the arguments."""
    visible_bt = lengths_b[:, None] + jnp.arange(q_btne.shape[1]) + 1
    seen = (jnp.arange(entries_bse.shape[1]) < visible_bt[..., None])[:, :, None]
    # What is not seen must not matter, even if it is not a number.
    entries_bse = jnp.where(seen[:, -1, 0, :, None], entries_bse, 0)
    scores = jnp.einsum("btne,bse->btns", q_btne, entries_bse) * scale
    largest = jnp.where(seen, scores, -jnp.inf).max(-1, keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    weights = jnp.where(seen, jnp.exp(scores - largest), 0)
    total = weights.sum(-1, keepdims=True)
    context = jnp.einsum("btns,bsr->btnr", weights, entries_bse[..., :rank])
    context = context / jnp.where(total > 0, total, 1)
    lse = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + largest, masking.MASKED)
    return context, lse[..., 0]
