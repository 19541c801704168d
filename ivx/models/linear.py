"""The one linear layer of the model: `nnx.Linear` with logical axes for sharding."""

import jax.numpy as jnp
from flax import nnx

from ivx.parallel.rules import AXES, TOGETHER


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    dtype: jnp.dtype,
    bias: bool = False,
    scale: float = 1.0,
    head: int = 1,
) -> nnx.Linear:
    """A dense layer [inputs] -> [outputs].

    Args:
      inputs: size of the last axis of its input.
      outputs: size of the last axis of its output.
      axes: logical names of the kernel's two axes.
      rngs: for initialisation.
      dtype: of computation; parameters are float32.
      bias: whether there is one.
      head: width of a head, whose numbers stay on one device; of axes `heads` and `kv_heads`.
      scale: multiplies the initial variance 1 / inputs.
    """
    together = {"heads": head, "kv_heads": head}
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.variance_scaling(scale, "fan_in", "normal"),
        kernel_metadata={AXES: axes, TOGETHER: together},
        bias_metadata={AXES: axes[1:], TOGETHER: together},
        rngs=rngs,
    )
