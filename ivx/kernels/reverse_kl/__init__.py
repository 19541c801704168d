"""Reverse KL between two models over the whole vocabulary, without [T, V] logits.

    KL_t = sum_v p_s(v) (log p_s(v) - log p_t(v))      p = softmax(h W), all in float32

The gradient is exact and flows into the student alone. Logits are made by chunks of tokens and of
the vocabulary and made again in the backward pass (`ivx.kernels.vocabulary`); under a mesh tokens
and vocabularies are spread as in `ivx.kernels.cross_entropy`. XLA's version is the only one, on TPU
too, for the reason given there.

Shapes: student_td and teacher_te hidden states (widths may differ) with any leading axes *t, in a
mesh [B, T]; student_dv, teacher_ev.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ivx.kernels.reverse_kl import xla


def reverse_kl(
    student_td: Float[Array, "*t d"],
    student_dv: Float[Array, "d v"],
    teacher_te: Float[Array, "*t e"],
    teacher_ev: Float[Array, "e v"],
    scored_t: Bool[Array, "*t"] | None = None,
) -> Float[Array, "*t"]:
    """KL(student || teacher) at each token, float32.

    Args:
      student_td: final hidden states of the student.
      student_dv: its head.
      teacher_te: final hidden states of the teacher.
      teacher_ev: its head, of the same vocabulary.
      scored_t: tokens that count; None: all. At the others it is 0, and nothing flows back.

    Raises:
      ValueError: shapes that do not belong together.
    """
    pairs = (student_td, student_dv), (teacher_te, teacher_ev)
    if (
        any(hidden.shape[-1] != head.shape[0] for hidden, head in pairs)
        or student_td.shape[:-1] != teacher_te.shape[:-1]
        or student_dv.shape[1] != teacher_ev.shape[1]
    ):
        raise ValueError(
            f"student {student_td.shape}, {student_dv.shape} and teacher {teacher_te.shape},"
            f" {teacher_ev.shape} do not belong together: [..., D], [D, V] and [..., E], [E, V]"
            " are expected"
        )
    teacher_te, teacher_ev = jax.lax.stop_gradient((teacher_te, teacher_ev))
    if scored_t is None:
        return xla.reverse_kl(student_td, student_dv, teacher_te, teacher_ev, None)
    student_td, teacher_te = (
        jnp.where(scored_t[..., None], a, 0) for a in (student_td, teacher_te)
    )
    kl_t = xla.reverse_kl(student_td, student_dv, teacher_te, teacher_ev, scored_t)
    return jnp.where(scored_t, kl_t, 0)
