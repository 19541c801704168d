"""Moves visual features to the text: each visual token receives the features of its patch group.

If a pack is split along `context`, both groups and tokens are sharded, and a token may need a group
of any device. The groups then circulate in a ring: every device keeps what it needs of the shard
that passes, so no device ever holds more than its own shard and one other.

    shard on device i in step s:  groups of device i - s       n steps, n - 1 transfers

The traffic equals that of an all-gather: D numbers per group and tap, once per training step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.parallel import sharding


def features_at_tokens(
    features_jbgd: Float[Array, "j b g d"], index_bt: Int[Array, "b t"]
) -> Float[Array, "j b t d"]:
    """The features of each token's patch group; 0 at text tokens.

    Args:
      features_jbgd: features of all groups: the merged visual tokens, then those of every tap.
      index_bt: index of the group of each token, or -1.
    """

    # The backward pass recomputes the masks, which would take as much memory as the features.
    @jax.checkpoint
    def gather(features_bgd: Array) -> Array:
        if sharding.axis_size("context") == 1:
            return _take(features_bgd, index_bt)
        rows = ("pack", "token", None)
        # Resharded here: along `context` like tokens. In the tower, also over `tensor`.
        return sharding.shard_map(_ring_gather, (rows, rows[:2]), rows)(features_bgd, index_bt)

    return jax.lax.map(gather, features_jbgd)


def _ring_gather(shard_bgd: Array, index_bt: Array) -> Array:
    """On each device: its groups and tokens."""
    count, device = jax.lax.axis_size("context"), jax.lax.axis_index("context")
    groups = shard_bgd.shape[1]
    ring = [(i, (i + 1) % count) for i in range(count)]

    def step(carry: tuple[Array, Array], step: Array) -> tuple[tuple[Array, Array], None]:
        shard, features = carry
        local = index_bt - (device - step) % count * groups
        in_shard = (index_bt >= 0) & (local >= 0) & (local < groups)
        features = features + _take(shard, jnp.where(in_shard, local, -1))
        return (jax.lax.ppermute(shard, "context", ring), features), None

    features = jnp.zeros((*index_bt.shape, shard_bgd.shape[-1]), shard_bgd.dtype)
    # A scan compiles once for any number of devices; its last transfer is redundant.
    (_, features), _ = jax.lax.scan(step, (shard_bgd, features), jnp.arange(count))
    return features


def _take(features_bgd: Array, index_bt: Array) -> Array:
    features = jnp.take_along_axis(features_bgd, jnp.maximum(index_bt, 0)[..., None], 1)
    return jnp.where(index_bt[..., None] >= 0, features, 0)
