"""Reverse KL between two models over the full vocabulary, without [T, V] arrays of logits.

    KL_t = sum_v p_s(v) (log p_s(v) - log p_t(v))      p = softmax(h W), all in float32

The gradient is exact and flows into the student only. Logits are computed in chunks of tokens and
columns and recomputed in the backward pass (`ivx.kernels.vocabulary`). Under a mesh, tokens and
vocabularies are sharded as in `ivx.kernels.cross_entropy`. XLA is the only implementation, also on
TPUs, for the reason stated there.

Shapes: hidden states student_td and teacher_te (the widths may differ) with any leading axes *t,
[B, T] under a mesh; heads student_dv and teacher_ev.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ivx.kernels.reverse_kl import xla


def reverse_kl(
    student_td: Float[Array, "*t d"],
    student_dv: Float[Array, "_d v"],
    teacher_te: Float[Array, "... e"],
    teacher_ev: Float[Array, "_e _v"],
    scored_t: Bool[Array, "*t"] | None = None,
) -> Float[Array, "*t"]:
    """KL(student || teacher) at each token, float32.

    Args:
      student_td: final hidden states of the student.
      student_dv: output matrix of the student.
      teacher_te: final hidden states of the teacher.
      teacher_ev: output matrix of the teacher, with the same vocabulary.
      scored_t: mask of the tokens to score; None scores all. The other tokens yield 0 and propagate
        no gradient.

    Raises:
      ValueError: the shapes do not match.
    """
    pairs = (student_td, student_dv), (teacher_te, teacher_ev)
    if (
        any(hidden.shape[-1] != head.shape[0] for hidden, head in pairs)
        or student_td.shape[:-1] != teacher_te.shape[:-1]
        or student_dv.shape[1] != teacher_ev.shape[1]
    ):
        raise ValueError(
            f"shapes of student {student_td.shape}, {student_dv.shape} and teacher"
            f" {teacher_te.shape}, {teacher_ev.shape} do not match; expected [..., D], [D, V] and"
            " [..., E], [E, V]"
        )
    teacher_te, teacher_ev = jax.lax.stop_gradient((teacher_te, teacher_ev))
    if scored_t is None:
        return xla.reverse_kl(student_td, student_dv, teacher_te, teacher_ev, None)
    student_td, teacher_te = (
        jnp.where(scored_t[..., None], a, 0) for a in (student_td, teacher_te)
    )
    kl_t = xla.reverse_kl(student_td, student_dv, teacher_te, teacher_ev, scored_t)
    return jnp.where(scored_t, kl_t, 0)
