"""The output projection fitted to what the source's attention gave, in closed form.

    W = argmin  sum_t |c_t W - y_t|^2 + lambda |W - W_o|^2      lambda = ridge * mean diagonal of G
      = (G + lambda)^-1 (sum c y^T + lambda W_o)                 G = sum c c^T

c is what the heads of the converted layer give for a token, side by side, y what the attention of
the source gives, W_o its output projection. It takes back what of the loss is linear in c; the
gradient stage `ivx.stages.attention_matching` goes on from here.

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
    wanted_btd: Float[Array, "b t d"],
    rope: Rope,
    segments_bt: Int[Array, "b t"],
) -> dict[str, Array]:
    """sum c c^T and sum c y^T over the tokens of all samples, float32.

    Args:
      attention: of the converted layer.
      x_btd: what it is fed.
      wanted_btd: y.
      rope: of the tokens.
      segments_bt: 0 where there is no token.
    """
    heads = nnx.merge(*nnx.split(attention))
    heads.o_proj = _Nothing()
    real_bt1 = (segments_bt > 0)[..., None]
    c_bto = jnp.where(real_bt1, heads(x_btd, rope, segments_bt)[0], 0)

    def product(b: Array) -> Array:
        return jnp.einsum(
            "bto,btd->od",
            c_bto,
            b,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    return {"heads": product(c_bto), "wanted": product(jnp.where(real_bt1, wanted_btd, 0))}


def solve(o_od: np.ndarray, found: dict[str, np.ndarray], ridge: float) -> np.ndarray:
    """W, float64 [O, D], from the sums and the source's projection."""
    gram_oo = found["heads"]
    damping = ridge * np.trace(gram_oo) / len(gram_oo)
    damped_oo = gram_oo + damping * np.eye(len(gram_oo))
    return o_od + np.linalg.solve(damped_oo, found["wanted"] - gram_oo @ o_od)


class _Nothing(nnx.Module):
    """Where the output projection was."""

    def __call__(self, x: Array) -> Array:
        return x
