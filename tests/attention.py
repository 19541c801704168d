"""What the tests of attention ops share: random inputs, packs, errors against float64."""

import jax
import jax.numpy as jnp
import numpy as np

# Largest error, relative to the largest value, that an op may make in a dtype.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def packs(*rows: tuple[int, ...], length: int) -> np.ndarray:
    """Numbers of the samples of each pack: samples of these lengths, then padding."""
    out = np.zeros((len(rows), length), np.int32)
    for row, samples in zip(out, rows, strict=True):
        row[: sum(samples)] = np.repeat(np.arange(len(samples)) + 1, samples)
    return out


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays of these shapes, of variance 1, float32."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def relative(found, expected) -> float:
    """Largest error, relative to the largest value; what is 0 has to be 0."""
    expected = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(found, np.float64) - expected)
    return float(error.max() / (np.abs(expected).max() or 1.0))


# Interpreted kernels are long programs of few numbers: compile them fast, not well.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def errors(op, exact_op, arrays: dict[str, np.ndarray], dtype: str) -> dict[str, float]:
    """Errors of `op` on `arrays` in `dtype`, and of its gradients, against float64.

    The loss weighs every output differently, and both sides see the same rounded inputs.
    """
    rounded = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    shape = jax.eval_shape(lambda a: op(**a), rounded).shape
    weights = np.random.default_rng(99).normal(size=shape).astype(np.float32)

    def loss_and_output(function):
        def loss(given, weights):
            out = function(**given)
            return (out.astype(jnp.promote_types(out.dtype, jnp.float32)) * weights).sum(), out

        return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)

    (_, out), grads = loss_and_output(op)(rounded, weights)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(a, np.float64)) for name, a in rounded.items()}
        (_, exact_out), exact_grads = loss_and_output(exact_op)(exact, weights)
    return {"out": relative(out, exact_out)} | {
        name: relative(grads[name], exact_grads[name]) for name in arrays
    }
