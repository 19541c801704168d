"""Benchmark cases of the reverse KL: the XLA version, for peak memory and estimated cycles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels import vocabulary
from ivx.kernels.case import KernelCase
from ivx.kernels.cross_entropy.cases import TOKENS, VOCAB, WIDTH


def cases(chip: str) -> list[KernelCase]:
    """The loss with its gradients as in a training step; student and teacher have one width."""
    del chip
    rows, columns = vocabulary.chunk_sizes(TOKENS, VOCAB)
    shape = jax.ShapeDtypeStruct
    hidden, head = shape((TOKENS, WIDTH), jnp.bfloat16), shape((WIDTH, VOCAB), jnp.bfloat16)
    # The logits of both models twice, then the gradients of the student's factors.
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


def _gradients() -> Callable:
    from ivx.kernels.reverse_kl import reverse_kl

    def run(
        student: Array, student_head: Array, teacher: Array, teacher_head: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        loss = lambda *a: reverse_kl(*a, teacher, teacher_head).sum()  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(student, student_head)

    return run
