"""Reference attention over a latent cache, for tests: full scores, any float dtype."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking


def attend(
    q_btne: Float[Array, "b t n e"],
    entries_bse: Float[Array, "b s e"],
    lengths_b: Int[Array, " b"],
    rank: int,
    scale: float,
) -> tuple[Float[Array, "b t n r"], Float[Array, "b t n"]]:
    """(context [B, T, N, R], log-sum-exp [B, T, N]) in the dtype of the arguments."""
    visible_bt = lengths_b[:, None] + jnp.arange(q_btne.shape[1]) + 1
    visible = (jnp.arange(entries_bse.shape[1]) < visible_bt[..., None])[:, :, None]
    # Entries beyond the length may be NaN.
    entries_bse = jnp.where(visible[:, -1, 0, :, None], entries_bse, 0)
    scores = jnp.einsum("btne,bse->btns", q_btne, entries_bse) * scale
    largest = jnp.where(visible, scores, -jnp.inf).max(-1, keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    weights = jnp.where(visible, jnp.exp(scores - largest), 0)
    total = weights.sum(-1, keepdims=True)
    context = jnp.einsum("btns,bsr->btnr", weights, entries_bse[..., :rank])
    context = context / jnp.where(total > 0, total, 1)
    lse = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + largest, masking.MASKED)
    return context, lse[..., 0]
