"""Shared by the tests of attention ops: random inputs, packs, and errors against float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array
# Maximum error of an op by dtype, relative to the largest value.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def packs(*rows: tuple[int, ...], length: int) -> jax.Array:
    """Sample ids of each pack: samples of these lengths, then padding."""
    ids = np.zeros((len(rows), length), np.int32)
    for row, samples in zip(ids, rows, strict=True):
        row[: sum(samples)] = np.repeat(np.arange(len(samples)) + 1, samples)
    return jnp.asarray(ids)


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Standard normal arrays of these shapes, float32."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def relative(actual: Array, expected: Array) -> float:
    """Maximum error relative to the largest value; absolute if all expected values are 0."""
    expected = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(actual, np.float64) - expected)
    return float(error.max() / (np.abs(expected).max() or 1.0))


# Interpreted kernels are long programs on few numbers, so compile time matters more than run time.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def errors(
    op: Callable[..., jax.Array],
    exact_op: Callable[..., jax.Array],
    arrays: dict[str, np.ndarray],
    dtype: str,
) -> dict[str, float]:
    """Errors of `op` and its gradients in `dtype` against `exact_op` in float64.

    The loss weights every output differently. Both ops get the same rounded inputs.
    """
    rounded = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    shape = jax.eval_shape(lambda a: op(**a), rounded).shape
    weights = np.random.default_rng(99).normal(size=shape).astype(np.float32)

    def loss_and_output(function: Callable[..., jax.Array]) -> Callable:
        def loss(inputs: dict[str, jax.Array], weights: np.ndarray) -> tuple[jax.Array, jax.Array]:
            out = function(**inputs)
            return (out.astype(jnp.promote_types(out.dtype, jnp.float32)) * weights).sum(), out

        return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)

    (_, out), grads = loss_and_output(op)(rounded, weights)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(a, np.float64)) for name, a in rounded.items()}
        (_, exact_out), exact_grads = loss_and_output(exact_op)(exact, weights)
    return {"out": relative(out, exact_out)} | {
        name: relative(grads[name], exact_grads[name]) for name in arrays
    }
