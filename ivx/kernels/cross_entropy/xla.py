"""Token scores over chunks of the vocabulary with online sums, for every backend.

    top = max_v z_v    s = sum_v e^(z_v - top)    u = sum_v e^(z_v - top) (z_v - top)
    log p = z_target - top - log s                H = log s - u / s

When later columns raise top, s becomes c s and u becomes c (u + s d), with d = top - new top and
c = e^d. Vocabulary shards merge in the same way. The backward pass recomputes the logits of each
chunk. For the cotangents a of log p and b of the entropy H,

    dz_v = a [v = target] - p_v (a + b (log p_v + H))

Shapes: as in `ivx.kernels.vocabulary`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels.masking import MASKED
from ivx.kernels.placement import Placement
from ivx.kernels.vocabulary import OutputLayer, TokenOrder, backpropagate, fold

# Hidden states, head, targets, mask of scored tokens; entropy, top, log of the sum.
_Residuals = tuple[Array, Array, Array, Array | None, Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def token_scores(
    hidden: Array, head: Array, targets: Array, scored: Array | None, scale: float
) -> tuple[Array, Array]:
    """(log-probabilities, entropies) of the scored tokens under softmax(scale * hidden head).

    The values of unscored tokens are undefined, and their cotangents must be 0.
    """
    return _forward(hidden, head, targets, scored, scale)[0]


def _forward(
    hidden: Array, head: Array, targets: Array, scored: Array | None, scale: float
) -> tuple[tuple[Array, Array], _Residuals]:
    placement = Placement.from_mesh(targets.shape, head.shape[1])
    gather = placement.gather_axis(head)

    def local(
        hidden: Array, head: Array, targets: Array, scored: Array | None
    ) -> tuple[Array, ...]:
        leading, tokens = targets.shape, TokenOrder.scored_first(scored, targets.size)
        reorder = functools.partial(tokens.reorder, leading=len(leading))
        layer = OutputLayer(reorder(hidden), head, gather, scale)
        zeros = jnp.zeros(len(layer.hidden), jnp.promote_types(jnp.float32, hidden.dtype))
        top, total, moment, target_logit = fold(
            _update,
            (zeros + MASKED, zeros, zeros, zeros),
            reorder(targets),
            (layer,),
            tokens,
            _first_column(placement, head),
        )
        global_top = placement.max_over_vocabulary(top)
        change = top - global_top
        moment = placement.sum_over_vocabulary(jnp.exp(change) * (moment + total * change))
        total = placement.sum_over_vocabulary(jnp.exp(change) * total)
        log_total = jnp.log(total)
        logps = placement.sum_over_vocabulary(target_logit) - global_top - log_total
        results = logps, log_total - moment / total, global_top, log_total
        return tuple(tokens.restore(a, leading) for a in results)

    arrays = hidden, head, targets, scored
    logps, entropy, top, log_total = placement.map(local, "dhtt", "tttt", *arrays)
    return (logps, entropy), (*arrays, entropy, top, log_total)


def _update(
    state: tuple[Array, ...], targets: Array, logits: list[Array], ids: Array
) -> tuple[Array, ...]:
    top, total, moment, target_logit = state
    [z] = logits
    new_top = jnp.maximum(top, z.max(-1))
    change, shifted = top - new_top, z - new_top[:, None]
    decay, weight = jnp.exp(change), jnp.exp(shifted)
    is_target = ids == targets[:, None]
    return (
        new_top,
        decay * total + weight.sum(-1),
        decay * (moment + total * change) + (weight * shifted).sum(-1),
        target_logit + jnp.where(is_target & (z > MASKED), z, 0).sum(-1),
    )


def _backward(
    scale: float, residuals: _Residuals, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None, None]:
    hidden, head, targets, scored, entropy, top, log_total = residuals
    placement = Placement.from_mesh(targets.shape, head.shape[1])
    gather = placement.gather_axis(head)

    def local(
        hidden: Array, head: Array, scored: Array | None, *rows: Array
    ) -> tuple[Array, Array]:
        leading, tokens = rows[0].shape, TokenOrder.scored_first(scored, rows[0].size)
        reorder = functools.partial(tokens.reorder, leading=len(leading))
        d_hidden, d_head = backpropagate(
            _logit_gradient,
            tuple(map(reorder, rows)),
            (OutputLayer(reorder(hidden), head, gather, scale),),
            tokens,
            functools.partial(placement.sum_over_tokens, gather=gather),
            _first_column(placement, head),
        )
        d_hidden = tokens.restore(placement.sum_over_vocabulary(d_hidden), leading)
        return d_hidden.astype(hidden.dtype), d_head

    rows = targets, top, log_total, entropy, *cotangents
    arrays = hidden, head, scored, *rows
    d_hidden, d_head = placement.map(local, "dht" + "t" * len(rows), "dh", *arrays)
    return d_hidden, d_head, None, None


def _logit_gradient(rows: tuple[Array, ...], logits: list[Array], ids: Array) -> Array:
    targets, top, log_total, entropy, d_logps, d_entropy = (a[:, None] for a in rows)
    [z] = logits
    logps = z - top - log_total
    softmax_part = jnp.exp(logps) * (d_logps + d_entropy * (logps + entropy))
    return jnp.where(ids == targets, d_logps, 0) - softmax_part


def _first_column(placement: Placement, head: Array) -> Array | int:
    """Id of this shard's first column."""
    return jax.lax.axis_index(placement.vocab) * head.shape[1] if placement.vocab else 0


token_scores.defvjp(_forward, _backward)
