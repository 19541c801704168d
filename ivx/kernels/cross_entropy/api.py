"""Output layer and softmax in one op: scores of each token without a [T, V] array of logits.

    log p_t = z_t[target_t] - logsumexp(z_t)         z = h W / temperature, in float32
    H_t     = -sum_v p_t(v) log p_t(v)

Logits are computed in chunks of tokens and columns, and recomputed in the backward pass. At most
64 MiB of logits are live (`ivx.kernels.vocabulary` chooses the chunks). Under a mesh
(`ivx.parallel.sharding`), tokens are sharded over replica, fsdp and context, and the vocabulary
over tensor. Each shard scores its part of the vocabulary, and the parts merge by their log-sum-exp.

XLA is the only implementation, also on TPUs. By the compiler's own estimate, its four products per
step (logits twice, two gradients) and the surrounding code take 1.4 times the time they would take
at the peak of a v5p. `cases.py` compiles it.

Shapes: hidden_td and targets_t with any leading axes *t, [B, T] under a mesh; head_dv.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ivx.kernels.cross_entropy import xla


class TokenScores(NamedTuple):
    """Per token, float32: log-probability of the target and entropy of the distribution."""

    logps: Float[Array, "*t"]
    entropy: Float[Array, "*t"]


def token_scores(
    hidden_td: Float[Array, "*t d"],
    head_dv: Float[Array, "_d v"],
    targets_t: Int[Array, "..."],
    temperature: float = 1.0,
    scored_t: Bool[Array, "*t"] | None = None,
) -> TokenScores:
    """Log-probabilities and entropies of all tokens; gradients of both are exact.

    Args:
      hidden_td: final hidden states, in the compute dtype.
      head_dv: output matrix, in the compute dtype.
      targets_t: target ids, 0 to V - 1.
      temperature: positive divisor of the logits.
      scored_t: mask of the tokens to score; None scores all. The other tokens score 0, cost little
        and propagate no gradient, whatever their hidden states hold.

    Raises:
      ValueError: the shapes do not match, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature = {temperature} must be positive; greedy decoding does not need one"
        )
    if hidden_td.shape[:-1] != targets_t.shape or hidden_td.shape[-1] != head_dv.shape[0]:
        raise ValueError(
            f"shapes of hidden states {hidden_td.shape}, head {head_dv.shape} and targets"
            f" {targets_t.shape} do not match; expected [..., D], [D, V] and [...]"
        )
    if scored_t is None:
        return TokenScores(*xla.token_scores(hidden_td, head_dv, targets_t, None, 1 / temperature))
    hidden_td = jnp.where(scored_t[..., None], hidden_td, 0)
    scores = xla.token_scores(hidden_td, head_dv, targets_t, scored_t, 1 / temperature)
    return TokenScores(*(jnp.where(scored_t, a, 0) for a in scores))


def cross_entropy(
    hidden_td: Float[Array, "*t d"],
    head_dv: Float[Array, "d v"],
    targets_t: Int[Array, "*t"],
    weights_t: Float[Array, "*t"] | Bool[Array, "*t"] | None = None,
) -> Float[Array, "*t"]:
    """Weighted negative log-likelihood of each target, float32: -w_t log p_t.

    Args:
      hidden_td: final hidden states.
      head_dv: output matrix.
      targets_t: target ids, 0 to V - 1.
      weights_t: weight of each token, not differentiated; None means 1. Tokens of weight 0 are not
        computed and propagate no gradient.
    """
    if weights_t is None:
        return -token_scores(hidden_td, head_dv, targets_t).logps
    weights_t = jax.lax.stop_gradient(jnp.asarray(weights_t, jnp.float32))
    scores = token_scores(hidden_td, head_dv, targets_t, scored_t=weights_t != 0)
    return -weights_t * scores.logps
