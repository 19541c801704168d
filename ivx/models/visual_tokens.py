"""From the tower to the text: each visual token takes the features of its patch group.

Where a pack is cut over devices (`context`), neither groups nor tokens are whole anywhere, and a
group may be needed on any device. Groups then go round: every device keeps what it needs of the
part that passes, so that no device ever holds more than its own and one other's.

    part on device i in turn s:  groups of device i - s        n turns, n - 1 moves

What moves is what gathering would move, D numbers a group and tap, once a step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.parallel import activations


def place(
    features_jbgd: Float[Array, "j b g d"], index_bt: Int[Array, "b t"]
) -> Float[Array, "j b t d"]:
    """Features at the tokens where they belong, 0 elsewhere.

    Args:
      features_jbgd: of all groups: the tokens' own, and those of every tap.
      index_bt: the group at each token, or -1.
    """

    # Backwards only the masks are made again: kept, they would be as large as the features.
    @jax.checkpoint
    def one(features_bgd: Array) -> Array:
        if activations.ways("context") == 1:
            return _taken(features_bgd, index_bt)
        rows = ("pack", "token", None)
        # Groups are cut along `context` as tokens are; over `tensor`, too, they were in the tower.
        return activations.split(_go_round, (rows, rows[:2]), rows)(features_bgd, index_bt)

    return jax.lax.map(one, features_jbgd)


def _go_round(part_bgd: Array, index_bt: Array) -> Array:
    """On each device: its own groups and tokens."""
    count, number = jax.lax.axis_size("context"), jax.lax.axis_index("context")
    here = part_bgd.shape[1]
    onward = [(i, (i + 1) % count) for i in range(count)]

    def turn(carry, step):
        part, found = carry
        local = index_bt - (number - step) % count * here
        of_part = (index_bt >= 0) & (local >= 0) & (local < here)
        found = found + _taken(part, jnp.where(of_part, local, -1))
        return (jax.lax.ppermute(part, "context", onward), found), None

    found = jnp.zeros((*index_bt.shape, part_bgd.shape[-1]), part_bgd.dtype)
    # Compiled once however many devices there are; the last move brings every part home.
    (_, found), _ = jax.lax.scan(turn, (part_bgd, found), jnp.arange(count))
    return found


def _taken(features_bgd: Array, index_bt: Array) -> Array:
    found = jnp.take_along_axis(features_bgd, jnp.maximum(index_bt, 0)[..., None], 1)
    return jnp.where(index_bt[..., None] >= 0, found, 0)
