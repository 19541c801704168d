"""Approximation 5: a closed-form refit of the output projection to the source's attention outputs.

    W = argmin  sum_t |c_t W - y_t|^2 + lambda |W - W_o|^2      lambda = ridge * mean diagonal of G
      = (G + lambda)^-1 (sum c y^T + lambda W_o)                 G = sum c c^T

c concatenates the head outputs of the converted layer for a token, y is the attention output of the
source, and W_o its output projection. The refit recovers the part of the loss that is linear in c;
the gradient-based stage `ivx.stages.attention_matching` continues from here.

Shapes: O = N * H.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ivx.models.rope import Rope


def sums(
    attention: nnx.Module,
    x_btd: Float[Array, "b t d"],
    target_btd: Float[Array, "b t d"],
    rope: Rope,
    segments_bt: Int[Array, "b t"],
) -> dict[str, Array]:
    """sum c c^T and sum c y^T over the tokens of all samples, float32.

    Args:
      attention: of the converted layer.
      x_btd: its input.
      target_btd: y.
      rope: rotation tables of the tokens.
      segments_bt: sample of each token, 0 for padding.
    """
    heads = nnx.merge(*nnx.split(attention))
    heads.o_proj = Identity()
    is_token_bt1 = (segments_bt > 0)[..., None]
    c_bto = jnp.where(is_token_bt1, heads(x_btd, rope, segments_bt)[0], 0)

    def product(b: Array) -> Array:
        return jnp.einsum(
            "bto,btd->od",
            c_bto,
            b,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    return {"heads": product(c_bto), "targets": product(jnp.where(is_token_bt1, target_btd, 0))}


def solve(o_od: np.ndarray, sums: dict[str, np.ndarray], ridge: float) -> np.ndarray:
    """W, float64 [O, D], from the sums and the projection of the source."""
    gram_oo = sums["heads"]
    damping = ridge * np.trace(gram_oo) / len(gram_oo)
    damped_oo = gram_oo + damping * np.eye(len(gram_oo))
    return o_od + np.linalg.solve(damped_oo, sums["targets"] - gram_oo @ o_od)


class Identity(nnx.Module):
    """Takes the place of a projection or a norm."""

    def __call__(self, x: Array) -> Array:
        return x
