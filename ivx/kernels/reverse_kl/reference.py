"""Reverse KL with logits whole: to read, and to test against in any precision."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reverse_kl(
    student_td: Float[Array, "*t d"],
    student_dv: Float[Array, "d v"],
    teacher_te: Float[Array, "*t e"],
    teacher_ev: Float[Array, "e v"],
) -> Float[Array, "*t"]:
    """KL(student || teacher) at each token; the gradient flows into the student alone."""

    def logps(hidden, head):
        exact = jnp.promote_types(jnp.float32, hidden.dtype)
        return jax.nn.log_softmax(hidden.astype(exact) @ head.astype(exact))

    own = logps(student_td, student_dv)
    other = jax.lax.stop_gradient(logps(teacher_te, teacher_ev))
    return (jnp.exp(own) * (own - other)).sum(-1)
