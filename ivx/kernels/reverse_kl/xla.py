"""Reverse KL by chunks of the vocabulary, with online sums; for every backend.

With student logits z, teacher logits y, each less its own top (z' = z - top_z, y' = y - top_y):

    s = sum_v e^z'    q = sum_v e^y'    c = sum_v e^z' (z' - y')
    KL = c / s - log s + log q

Larger tops of later columns, changes d_z = top_z - new top_z (likewise d_y), turn s into e^d_z s, q
into e^d_y q and c into e^d_z (c + s (d_z - d_y)). Shards of a vocabulary merge in the same way.
Backwards, logits of a chunk are made again and

    dKL / dz_v = p_v (log p_v - log q_v - KL)

Shapes: as in `ivx.kernels.vocabulary`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels.masking import MASKED
from ivx.kernels.vocabulary import Linear, Placement, Tokens, fold, pull_back


@jax.custom_vjp
def reverse_kl(
    student: Array, student_head: Array, teacher: Array, teacher_head: Array, scored: Array | None
) -> Array:
    """KL of the scored tokens; of the others it is undefined, and its cotangent must be 0."""
    return _forward(student, student_head, teacher, teacher_head, scored)[0]


def _forward(student, student_head, teacher, teacher_head, scored):
    place = Placement.around(student.shape[:-1], student_head.shape[1])
    gathers = place.gather(student_head), place.gather(teacher_head)

    def local(student, student_head, teacher, teacher_head, scored):
        leading = student.shape[:-1]
        tokens, models = _models(student, student_head, teacher, teacher_head, scored, gathers)
        zeros = jnp.zeros(len(models[0].hidden), jnp.promote_types(jnp.float32, student.dtype))
        low = zeros + MASKED
        state = low, low, zeros, zeros, zeros
        top, top_y, total, total_y, moment = fold(_update, state, (), models, tokens)
        new, new_y = place.max_over_vocabulary(top), place.max_over_vocabulary(top_y)
        change, change_y = top - new, top_y - new_y
        moment = jnp.exp(change) * (moment + total * (change - change_y))
        sums = moment, jnp.exp(change) * total, jnp.exp(change_y) * total_y
        moment, total, total_y = map(place.sum_over_vocabulary, sums)
        log_total, log_total_y = jnp.log(total), jnp.log(total_y)
        kl = moment / total - log_total + log_total_y
        found = kl, new, log_total, new_y, log_total_y
        return tuple(tokens.take_back(a, leading) for a in found)

    arrays = student, student_head, teacher, teacher_head, scored
    kl, *kept = place.map(local, "dhdht", "ttttt", *arrays)
    return kl, (*arrays, kl, *kept)


def _update(state, rows, logits, numbers):
    del rows, numbers
    top, top_y, total, total_y, moment = state
    z, y = logits
    new, new_y = jnp.maximum(top, z.max(-1)), jnp.maximum(top_y, y.max(-1))
    change, change_y = top - new, top_y - new_y
    away, away_y = z - new[:, None], y - new_y[:, None]
    kept, weight = jnp.exp(change), jnp.exp(away)
    # Both logits of a masked column are far down, and their difference is not: its weight is 0.
    return (
        new,
        new_y,
        kept * total + weight.sum(-1),
        jnp.exp(change_y) * total_y + jnp.exp(away_y).sum(-1),
        kept * (moment + total * (change - change_y)) + (weight * (away - away_y)).sum(-1),
    )


def _backward(kept, d_kl):
    student, student_head, teacher, teacher_head, scored, *rows = kept
    place = Placement.around(student.shape[:-1], student_head.shape[1])
    gathers = place.gather(student_head), place.gather(teacher_head)

    def local(student, student_head, teacher, teacher_head, scored, *rows):
        leading = student.shape[:-1]
        tokens, models = _models(student, student_head, teacher, teacher_head, scored, gathers)
        rows = tuple(tokens.bring(a, len(leading)) for a in rows)
        reduce = functools.partial(place.sum_over_tokens, gather=gathers[0])
        d_hidden, d_head = pull_back(_slope, rows, models, tokens, reduce)
        d_hidden = tokens.take_back(place.sum_over_vocabulary(d_hidden), leading)
        return d_hidden.astype(student.dtype), d_head

    rows = *rows, d_kl
    arrays = student, student_head, teacher, teacher_head, scored, *rows
    d_hidden, d_head = place.map(local, "dhdht" + "t" * len(rows), "dh", *arrays)
    return d_hidden, d_head, None, None, None


def _slope(rows, logits, numbers):
    del numbers
    kl, top, log_total, top_y, log_total_y, d_kl = (a[:, None] for a in rows)
    z, y = logits
    own, other = z - top - log_total, y - top_y - log_total_y
    return d_kl * jnp.exp(own) * (own - other - kl)


def _models(student, student_head, teacher, teacher_head, scored, gathers):
    """The tokens in the order walked, and both models on them."""
    leading = student.ndim - 1
    tokens = Tokens.of(scored, student.size // student.shape[-1])
    pairs = zip((student, teacher), (student_head, teacher_head), gathers, strict=True)
    return tokens, tuple(
        Linear(tokens.bring(hidden, leading), head, gather) for hidden, head, gather in pairs
    )


reverse_kl.defvjp(_forward, _backward)
