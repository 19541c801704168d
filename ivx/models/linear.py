"""The one linear layer of the model: `nnx.Linear` with logical axes for sharding."""

import jax.numpy as jnp
from flax import nnx

from ivx.parallel.rules import AXES


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    dtype: jnp.dtype,
    bias: bool = False,
    scale: float = 1.0,
) -> nnx.Linear:
    """A dense layer [inputs] -> [outputs].

    Args:
      inputs: size of the last axis of its input.
      outputs: size of the last axis of its output.
      axes: logical names of the kernel's two axes.
      rngs: for initialisation.
      dtype: of computation; parameters are float32.
      bias: whether there is one.
      scale: multiplies the initial variance 1 / inputs.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.variance_scaling(scale, "fan_in", "normal"),
        kernel_metadata={AXES: axes},
        bias_metadata={AXES: axes[1:]},
        rngs=rngs,
    )
