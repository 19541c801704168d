"""Benchmark cases of the cross-entropy: the XLA version, for peak memory and estimated cycles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.kernels import vocabulary
from ivx.kernels.case import KernelCase

# Tokens of one device: a pack of 262,144 tokens split over 32 devices along `context`.
TOKENS, WIDTH, VOCAB = 8192, 4096, 151_936


def cases(chip: str) -> list[KernelCase]:
    """Token scores, and the loss with its gradients as in a training step."""
    del chip
    head = 2 * WIDTH * VOCAB
    hidden = 2 * WIDTH * TOKENS
    return [
        _case("fwd", _forward, 1, head + hidden),
        # The logits twice, then the gradients of both factors.
        _case("grad", _gradients, 4, 3 * head + 4 * hidden),
    ]


def _case(name: str, build: Callable[[], Callable], products: int, hbm_bytes: int) -> KernelCase:
    rows, columns = vocabulary.chunk_sizes(TOKENS, VOCAB)
    shape = jax.ShapeDtypeStruct
    return KernelCase(
        name=f"cross_entropy-{name}-bf16-{TOKENS}x{VOCAB}",
        op="cross_entropy",
        build=build,
        arguments=(
            shape((TOKENS, WIDTH), jnp.bfloat16),
            shape((WIDTH, VOCAB), jnp.bfloat16),
            shape((TOKENS,), jnp.int32),
        ),
        flops=2 * products * TOKENS * WIDTH * VOCAB,
        hbm_bytes=hbm_bytes,
        per_block=f"{rows} tokens x {columns} columns",
        block_flops=2 * products * rows * WIDTH * columns,
        block_bytes=2 * WIDTH * (rows + columns),
    )


def _forward() -> Callable:
    from ivx.kernels.cross_entropy import token_scores

    return token_scores


def _gradients() -> Callable:
    from ivx.kernels.cross_entropy import cross_entropy

    def run(hidden: Array, head: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
        loss = lambda *a: cross_entropy(*a, targets).sum()  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(hidden, head)

    return run
