"""Linear layer and softmax in one: what a model says of each token, without [T, V] logits.

    log p_t = z_t[target_t] - logsumexp(z_t)         z = h W / temperature, in float32
    H_t     = -sum_v p_t(v) log p_t(v)

Logits are made by chunks of tokens and of the vocabulary, and made again in the backward pass; at
most 64 MiB of them are alive (`ivx.kernels.vocabulary` says how chunks are chosen). Under a mesh
(`ivx.parallel.ambient`) tokens lie over replica, fsdp and context, and the vocabulary over tensor:
each shard scores its part, and parts are merged by their log-sum-exp.

XLA's version is the only one, on TPU too: its four products a step (logits twice, two gradients),
with all that is around them, take 1.4 times what they would at the peak of a v5p, by the compiler's
own estimate. `cases.py` compiles it.

Shapes: hidden_td and targets_t with any leading axes *t, in a mesh [B, T]; head_dv.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ivx.kernels.cross_entropy import xla


class TokenScores(NamedTuple):
    """Of each token, float32: log-probability of its target, and entropy of its distribution."""

    logps: Float[Array, "*t"]
    entropy: Float[Array, "*t"]


def token_scores(
    hidden_td: Float[Array, "*t d"],
    head_dv: Float[Array, "d v"],
    targets_t: Int[Array, "*t"],
    temperature: float = 1.0,
    scored_t: Bool[Array, "*t"] | None = None,
) -> TokenScores:
    """Scores of every token; gradients of both are exact.

    Args:
      hidden_td: final hidden states, in the dtype of computation.
      head_dv: what scores the vocabulary, likewise.
      targets_t: from 0 to V - 1.
      temperature: positive; divides the logits.
      scored_t: tokens that count; None: all. The others score 0, cost little, and nothing flows
        back through them, whatever their hidden states hold.

    Raises:
      ValueError: shapes that do not belong together, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} must be positive; greedy choice needs none")
    if hidden_td.shape[:-1] != targets_t.shape or hidden_td.shape[-1] != head_dv.shape[0]:
        raise ValueError(
            f"hidden states {hidden_td.shape}, head {head_dv.shape} and targets {targets_t.shape}"
            " do not belong together: [..., D], [D, V] and [...] are expected"
        )
    if scored_t is None:
        return TokenScores(*xla.token_scores(hidden_td, head_dv, targets_t, None, 1 / temperature))
    hidden_td = jnp.where(scored_t[..., None], hidden_td, 0)
    found = xla.token_scores(hidden_td, head_dv, targets_t, scored_t, 1 / temperature)
    return TokenScores(*(jnp.where(scored_t, a, 0) for a in found))


def cross_entropy(
    hidden_td: Float[Array, "*t d"],
    head_dv: Float[Array, "d v"],
    targets_t: Int[Array, "*t"],
    weights_t: Float[Array, "*t"] | Bool[Array, "*t"] | None = None,
) -> Float[Array, "*t"]:
    """Weighted negative log-likelihood of each target, float32: -w_t log p_t.

    Args:
      hidden_td: final hidden states.
      head_dv: what scores the vocabulary.
      targets_t: from 0 to V - 1.
      weights_t: of each token, not differentiated; where it is 0 nothing is computed, and nothing
        flows back. None: 1 everywhere.
    """
    if weights_t is None:
        return -token_scores(hidden_td, head_dv, targets_t).logps
    weights_t = jax.lax.stop_gradient(jnp.asarray(weights_t, jnp.float32))
    scores = token_scores(hidden_td, head_dv, targets_t, scored_t=weights_t != 0)
    return -weights_t * scores.logps
