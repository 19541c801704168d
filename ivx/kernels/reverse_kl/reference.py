"""Reference reverse KL with the full logits, for tests in any precision."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reverse_kl(
    student_td: Float[Array, "*t d"],
    student_dv: Float[Array, "d v"],
    teacher_te: Float[Array, "*t e"],
    teacher_ev: Float[Array, "e v"],
) -> Float[Array, "*t"]:
    """KL(student || teacher) at each token; the gradient flows into the student only."""

    def log_softmax(hidden: Array, head: Array) -> Array:
        exact = jnp.promote_types(jnp.float32, hidden.dtype)
        return jax.nn.log_softmax(hidden.astype(exact) @ head.astype(exact))

    student_logps = log_softmax(student_td, student_dv)
    teacher_logps = jax.lax.stop_gradient(log_softmax(teacher_te, teacher_ev))
    return (jnp.exp(student_logps) * (student_logps - teacher_logps)).sum(-1)
