"""Scores of tokens by chunks of the vocabulary, with online sums; for every backend.

    top = max_v z_v    s = sum_v e^(z_v - top)    u = sum_v e^(z_v - top) (z_v - top)
    log p = z_target - top - log s                H = log s - u / s

A larger top of later columns turns s into c s and u into c (u + s d), with d = top - new top and
c = e^d. Shards of a vocabulary merge in the same way. Backwards, for cotangents a of log p and b of
the entropy H, logits of a chunk are made again and

    dz_v = a [v = target] - p_v (a + b (log p_v + H))

Shapes: as in `ivx.kernels.vocabulary`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels.masking import MASKED
from ivx.kernels.vocabulary import Linear, Placement, Tokens, fold, pull_back


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def token_scores(hidden: Array, head: Array, targets: Array, scored: Array | None, scale: float):
    """(log-probabilities, entropies) of the scored tokens under softmax(scale * hidden head).

    Those of tokens that are not scored are undefined, and their cotangents must be 0.
    """
    return _forward(hidden, head, targets, scored, scale)[0]


def _forward(hidden, head, targets, scored, scale):
    place = Placement.around(targets.shape, head.shape[1])
    gather = place.gather(head)

    def local(hidden, head, targets, scored):
        leading, tokens = targets.shape, Tokens.of(scored, targets.size)
        bring = functools.partial(tokens.bring, leading=len(leading))
        model = Linear(bring(hidden), head, gather, scale)
        zeros = jnp.zeros(len(model.hidden), jnp.promote_types(jnp.float32, hidden.dtype))
        top, total, moment, picked = fold(
            _update,
            (zeros + MASKED, zeros, zeros, zeros),
            bring(targets),
            (model,),
            tokens,
            _first_column(place, head),
        )
        whole_top = place.max_over_vocabulary(top)
        change = top - whole_top
        moment = place.sum_over_vocabulary(jnp.exp(change) * (moment + total * change))
        total = place.sum_over_vocabulary(jnp.exp(change) * total)
        log_total = jnp.log(total)
        logps = place.sum_over_vocabulary(picked) - whole_top - log_total
        found = logps, log_total - moment / total, whole_top, log_total
        return tuple(tokens.take_back(a, leading) for a in found)

    arrays = hidden, head, targets, scored
    logps, entropy, top, log_total = place.map(local, "dhtt", "tttt", *arrays)
    return (logps, entropy), (*arrays, entropy, top, log_total)


def _update(state, targets, logits, numbers):
    top, total, moment, picked = state
    [z] = logits
    new_top = jnp.maximum(top, z.max(-1))
    change, away = top - new_top, z - new_top[:, None]
    kept, weight = jnp.exp(change), jnp.exp(away)
    here = numbers == targets[:, None]
    return (
        new_top,
        kept * total + weight.sum(-1),
        kept * (moment + total * change) + (weight * away).sum(-1),
        picked + jnp.where(here & (z > MASKED), z, 0).sum(-1),
    )


def _backward(scale, kept, cotangents):
    hidden, head, targets, scored, entropy, top, log_total = kept
    place = Placement.around(targets.shape, head.shape[1])
    gather = place.gather(head)

    def local(hidden, head, scored, *rows):
        leading, tokens = rows[0].shape, Tokens.of(scored, rows[0].size)
        bring = functools.partial(tokens.bring, leading=len(leading))
        d_hidden, d_head = pull_back(
            _slope,
            tuple(map(bring, rows)),
            (Linear(bring(hidden), head, gather, scale),),
            tokens,
            functools.partial(place.sum_over_tokens, gather=gather),
            _first_column(place, head),
        )
        d_hidden = tokens.take_back(place.sum_over_vocabulary(d_hidden), leading)
        return d_hidden.astype(hidden.dtype), d_head

    rows = targets, top, log_total, entropy, *cotangents
    d_hidden, d_head = place.map(local, "dht" + "t" * len(rows), "dh", hidden, head, scored, *rows)
    return d_hidden, d_head, None, None


def _slope(rows, logits, numbers):
    targets, top, log_total, entropy, d_logps, d_entropy = (a[:, None] for a in rows)
    [z] = logits
    logps = z - top - log_total
    slope = jnp.exp(logps) * (d_logps + d_entropy * (logps + entropy))
    return jnp.where(numbers == targets, d_logps, 0) - slope


def _first_column(place: Placement, head: Array) -> Array | int:
    """Number of this shard's first column."""
    return jax.lax.axis_index(place.vocab) * head.shape[1] if place.vocab else 0


token_scores.defvjp(_forward, _backward)
