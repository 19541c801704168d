"""Linear layer and cross-entropy in one, by chunks of tokens; logits [B * T, V] are never whole.

    loss_t = logsumexp(h_t W) - (h_t W)[target_t]          in float32

Shapes: hidden_td, head_dv, targets_t, loss_t.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Tokens whose logits are alive at a time; the official trainer's chunk.
CHUNK = 1024


def cross_entropy(
    hidden_td: Float[Array, "t d"],
    head_dv: Float[Array, "d v"],
    targets_t: Int[Array, " t"],
    chunk: int = CHUNK,
) -> Float[Array, " t"]:
    """Negative log-likelihood of each target, float32 [T]; the backward pass makes logits again."""

    @jax.checkpoint
    def losses(hidden, targets):
        logits = jnp.einsum("td,dv->tv", hidden, head_dv, preferred_element_type=jnp.float32)
        picked = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
        return jax.nn.logsumexp(logits, -1) - picked

    length = hidden_td.shape[0]
    if length <= chunk:
        return losses(hidden_td, targets_t)
    padding = -length % chunk
    hidden = jnp.pad(hidden_td, ((0, padding), (0, 0))).reshape(-1, chunk, hidden_td.shape[1])
    targets = jnp.pad(targets_t, (0, padding)).reshape(-1, chunk)
    return jax.lax.map(lambda pair: losses(*pair), (hidden, targets)).reshape(-1)[:length]
