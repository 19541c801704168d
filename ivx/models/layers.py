"""Linear and norm layers with logical sharding axes, and stacks of blocks."""

from flax import nnx
from jax.typing import DTypeLike

from ivx.parallel.sharding import AXES, INDIVISIBLE


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    bias: bool = False,
    scale: float = 1.0,
    head: int = 1,
) -> nnx.Linear:
    """A dense layer [inputs] -> [outputs] with float32 parameters.

    Args:
      inputs: size of the last axis of its input.
      outputs: size of the last axis of its output.
      axes: logical names of the kernel's two axes.
      rngs: random streams for initialization.
      dtype: compute dtype.
      bias: whether to add a bias.
      scale: factor of the initial variance 1 / inputs.
      head: head width; axes `heads` and `kv_heads` are not split within a head.
    """
    indivisible = {"heads": head, "kv_heads": head}
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.variance_scaling(scale, "fan_in", "normal"),
        kernel_metadata={AXES: axes, INDIVISIBLE: indivisible},
        bias_metadata={AXES: axes[1:], INDIVISIBLE: indivisible},
        rngs=rngs,
    )


def rms_norm(
    width: int, axis: str | None, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.RMSNorm:
    """RMS norm with statistics in float32; `axis` is the logical name of its scale's axis."""
    return nnx.RMSNorm(
        width, epsilon=epsilon, dtype=dtype, scale_metadata={AXES: (axis,)}, rngs=rngs
    )


def layer_norm(width: int, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm with statistics in float32 and replicated parameters."""
    metadata = {"scale_metadata": {AXES: (None,)}, "bias_metadata": {AXES: (None,)}}
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs, **metadata)


def stack(block: type[nnx.Module], depth: int, *args: object, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` blocks as one module with stacked parameters, each initialized with its own key."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> nnx.Module:
        return block(*args, rngs)

    return create(rngs)
