"""Reverse KL between two models over the whole vocabulary, by chunks of tokens.

    KL_t = sum_v p_s(v) (log p_s(v) - log p_t(v))      p = softmax(h W), all in float32

The gradient is exact and flows into the student alone. Logits [B * T, V] are never whole; the
backward pass makes those of a chunk again.

Shapes: student_td and teacher_te hidden states (widths may differ), heads student_dv, teacher_ev.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Tokens whose logits, of both models, are alive at a time.
CHUNK = 512


def reverse_kl(
    student_td: Float[Array, "t d"],
    student_dv: Float[Array, "d v"],
    teacher_te: Float[Array, "t e"],
    teacher_ev: Float[Array, "e v"],
    chunk: int = CHUNK,
) -> Float[Array, " t"]:
    """KL(student || teacher) at each token, float32 [T]."""
    teacher_te, teacher_ev = jax.lax.stop_gradient((teacher_te, teacher_ev))

    def log_probabilities(hidden, head):
        logits = jnp.einsum("td,dv->tv", hidden, head, preferred_element_type=jnp.float32)
        return jax.nn.log_softmax(logits)

    @jax.checkpoint
    def divergence(student, teacher):
        s, t = log_probabilities(student, student_dv), log_probabilities(teacher, teacher_ev)
        return (jnp.exp(s) * (s - t)).sum(-1)

    length = student_td.shape[0]
    if length <= chunk:
        return divergence(student_td, teacher_te)
    padding = -length % chunk
    parts = [
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[1])
        for hidden in (student_td, teacher_te)
    ]
    return jax.lax.map(lambda pair: divergence(*pair), tuple(parts)).reshape(-1)[:length]
