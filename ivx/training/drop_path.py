"""Stochastic depth (arXiv 1603.09382): whole blocks of the vision tower are dropped at random.

    x + b_l f_l(x) / (1 - p_l)     b_l ~ Bernoulli(1 - p_l), one draw per step;  p_l = p (l + 1) / L

As in the paper, one draw holds for the whole batch. Both branches of a block, attention and MLP,
end in a linear layer. Multiplying that layer by b / (1 - p) has the same effect, so the model
itself needs no change.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ivx.models.definition import Params

# The last linear layer of each branch.
_LAST = ("proj", "linear_fc2")


def drop_paths(params: Params, rate: float, key: Array) -> Params:
    """The parameters with dropped branches set to 0 and kept ones scaled by 1 / (1 - p).

    Args:
      params: of the whole model, the tower's blocks stacked on axis 0.
      rate: p of the last block.
      key: random key of the step.
    """
    blocks = params["visual"]["blocks"]
    depth = jax.tree.leaves(blocks)[0].shape[0]
    drop_l = rate * jnp.arange(1, depth + 1) / depth
    branches = {}
    for name, branch_key in zip(_LAST, jax.random.split(key), strict=True):
        kept_l = jax.random.bernoulli(branch_key, 1 - drop_l) / (1 - drop_l)
        branches[name] = jax.tree.map(
            lambda leaf, k=kept_l: leaf * k.astype(leaf.dtype).reshape(-1, *(1,) * (leaf.ndim - 1)),
            blocks[name],
        )
    return params | {"visual": params["visual"] | {"blocks": blocks | branches}}
