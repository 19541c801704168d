"""Reverse KL over chunks of the vocabulary with online sums, for every backend.

With student logits z and teacher logits y, each minus its running maximum (z' = z - top_z,
y' = y - top_y):

    s = sum_v e^z'    q = sum_v e^y'    c = sum_v e^z' (z' - y')
    KL = c / s - log s + log q

When later columns raise the maxima by d_z = top_z - new top_z (and d_y likewise), s becomes
e^d_z s, q becomes e^d_y q, and c becomes e^d_z (c + s (d_z - d_y)). Vocabulary shards merge in the
same way. The backward pass recomputes the logits of each chunk, and

    dKL / dz_v = p_v (log p_v - log q_v - KL)

Shapes: as in `ivx.kernels.vocabulary`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels.masking import MASKED
from ivx.kernels.placement import Placement
from ivx.kernels.vocabulary import OutputLayer, TokenOrder, backpropagate, fold


@jax.custom_vjp
def reverse_kl(
    student: Array, student_head: Array, teacher: Array, teacher_head: Array, scored: Array | None
) -> Array:
    """KL of the scored tokens. Unscored tokens are undefined, and their cotangents must be 0."""
    return _forward(student, student_head, teacher, teacher_head, scored)[0]


def _forward(
    student: Array, student_head: Array, teacher: Array, teacher_head: Array, scored: Array | None
) -> tuple[Array, tuple[Array | None, ...]]:
    placement = Placement.from_mesh(student.shape[:-1], student_head.shape[1])
    gathers = placement.gather_axis(student_head), placement.gather_axis(teacher_head)

    def local(
        student: Array,
        student_head: Array,
        teacher: Array,
        teacher_head: Array,
        scored: Array | None,
    ) -> tuple[Array, ...]:
        leading = student.shape[:-1]
        tokens, layers = _layers(student, student_head, teacher, teacher_head, scored, gathers)
        zeros = jnp.zeros(len(layers[0].hidden), jnp.promote_types(jnp.float32, student.dtype))
        low = zeros + MASKED
        state = low, low, zeros, zeros, zeros
        top, top_y, total, total_y, moment = fold(_update, state, (), layers, tokens)
        new, new_y = placement.max_over_vocabulary(top), placement.max_over_vocabulary(top_y)
        change, change_y = top - new, top_y - new_y
        moment = jnp.exp(change) * (moment + total * (change - change_y))
        sums = moment, jnp.exp(change) * total, jnp.exp(change_y) * total_y
        moment, total, total_y = map(placement.sum_over_vocabulary, sums)
        log_total, log_total_y = jnp.log(total), jnp.log(total_y)
        kl = moment / total - log_total + log_total_y
        results = kl, new, log_total, new_y, log_total_y
        return tuple(tokens.restore(a, leading) for a in results)

    arrays = student, student_head, teacher, teacher_head, scored
    kl, *statistics = placement.map(local, "dhdht", "ttttt", *arrays)
    return kl, (*arrays, kl, *statistics)


def _update(
    state: tuple[Array, ...], rows: tuple[()], logits: list[Array], ids: Array
) -> tuple[Array, ...]:
    del rows, ids
    top, top_y, total, total_y, moment = state
    z, y = logits
    new, new_y = jnp.maximum(top, z.max(-1)), jnp.maximum(top_y, y.max(-1))
    change, change_y = top - new, top_y - new_y
    shifted, shifted_y = z - new[:, None], y - new_y[:, None]
    decay, weight = jnp.exp(change), jnp.exp(shifted)
    # In a masked column both logits are very low, but their difference is not. Its weight is 0.
    return (
        new,
        new_y,
        decay * total + weight.sum(-1),
        jnp.exp(change_y) * total_y + jnp.exp(shifted_y).sum(-1),
        decay * (moment + total * (change - change_y)) + (weight * (shifted - shifted_y)).sum(-1),
    )


def _backward(
    residuals: tuple[Array | None, ...], d_kl: Array
) -> tuple[Array, Array, None, None, None]:
    student, student_head, teacher, teacher_head, scored, *rows = residuals
    placement = Placement.from_mesh(student.shape[:-1], student_head.shape[1])
    gathers = placement.gather_axis(student_head), placement.gather_axis(teacher_head)

    def local(
        student: Array,
        student_head: Array,
        teacher: Array,
        teacher_head: Array,
        scored: Array | None,
        *rows: Array,
    ) -> tuple[Array, Array]:
        leading = student.shape[:-1]
        tokens, layers = _layers(student, student_head, teacher, teacher_head, scored, gathers)
        rows = tuple(tokens.reorder(a, len(leading)) for a in rows)
        reduce = functools.partial(placement.sum_over_tokens, gather=gathers[0])
        d_hidden, d_head = backpropagate(_logit_gradient, rows, layers, tokens, reduce)
        d_hidden = tokens.restore(placement.sum_over_vocabulary(d_hidden), leading)
        return d_hidden.astype(student.dtype), d_head

    rows = *rows, d_kl
    arrays = student, student_head, teacher, teacher_head, scored, *rows
    d_hidden, d_head = placement.map(local, "dhdht" + "t" * len(rows), "dh", *arrays)
    return d_hidden, d_head, None, None, None


def _logit_gradient(rows: tuple[Array, ...], logits: list[Array], ids: Array) -> Array:
    del ids
    kl, top, log_total, top_y, log_total_y, d_kl = (a[:, None] for a in rows)
    z, y = logits
    student_logps, teacher_logps = z - top - log_total, y - top_y - log_total_y
    return d_kl * jnp.exp(student_logps) * (student_logps - teacher_logps - kl)


def _layers(
    student: Array,
    student_head: Array,
    teacher: Array,
    teacher_head: Array,
    scored: Array | None,
    gathers: tuple[str | None, str | None],
) -> tuple[TokenOrder, tuple[OutputLayer, OutputLayer]]:
    """The visiting order of the tokens, and both output layers in that order."""
    leading = student.ndim - 1
    tokens = TokenOrder.scored_first(scored, student.size // student.shape[-1])
    pairs = zip((student, teacher), (student_head, teacher_head), gathers, strict=True)
    return tokens, tuple(
        OutputLayer(tokens.reorder(hidden, leading), head, gather) for hidden, head, gather in pairs
    )


reverse_kl.defvjp(_forward, _backward)
