"""What is compiled of reverse KL: XLA's version, for peak memory and estimated cycles."""

import jax
import jax.numpy as jnp

from ivx.kernels import vocabulary
from ivx.kernels.case import KernelCase
from ivx.kernels.cross_entropy.cases import TOKENS, VOCAB, WIDTH


def cases(chip: str) -> list[KernelCase]:
    """A training step's use of it, student and teacher of one width."""
    del chip
    rows, columns = vocabulary.chunk_sizes(TOKENS, VOCAB)
    shape = jax.ShapeDtypeStruct
    hidden, head = shape((TOKENS, WIDTH), jnp.bfloat16), shape((WIDTH, VOCAB), jnp.bfloat16)
    # Logits of both models twice, then the gradients of the student's factors.
    products = 6
    return [
        KernelCase(
            name=f"reverse_kl-grad-bf16-{TOKENS}x{VOCAB}",
            op="reverse_kl",
            build=_gradients,
            arguments=(hidden, head, hidden, head),
            flops=2 * products * TOKENS * WIDTH * VOCAB,
            hbm_bytes=2 * WIDTH * (5 * VOCAB + 6 * TOKENS),
            per_block=f"{rows} tokens x {columns} columns of both models",
            block_flops=2 * products * rows * WIDTH * columns,
            block_bytes=4 * WIDTH * (rows + columns),
        )
    ]


def _gradients():
    from ivx.kernels.reverse_kl import reverse_kl

    def run(student, student_head, teacher, teacher_head):
        loss = lambda *own: reverse_kl(*own, teacher, teacher_head).sum()  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(student, student_head)

    return run
