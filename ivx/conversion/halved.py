"""The source held in half the memory while it is converted, where that loses nothing.

Checkpoints come in bfloat16 and are read as float32. Every kernel and embedding of the decoder
whose numbers all are bfloat16 numbers is held as such: at 8B 18 GB instead of 35. The vision tower
stays as it is, since it adds some of its tables before they are cast.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ivx.models.definition import Params

_PARTS = ("language_model", "embed_tokens", "lm_head")
_NAMES = ("kernel", "embedding")


def halve(params: Params) -> None:
    """Replaces leaves, one after another, so that no second copy of all is ever there."""
    for part in _PARTS:
        if part in params:
            _halve(params[part])


def halved_shapes(shapes: Params) -> Params:
    """Those of parameters that were bfloat16 numbers, all of them, once they are halved."""

    def halved(path, shape):
        part, *_, name = (entry.key for entry in path)
        if part not in _PARTS or name not in _NAMES:
            return shape
        return jax.ShapeDtypeStruct(shape.shape, jnp.bfloat16, sharding=shape.sharding)

    return jax.tree_util.tree_map_with_path(halved, shapes)


def whole(params: Params) -> Params:
    """The same numbers in float32."""
    return jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == jnp.bfloat16 else a, params)


def _halve(tree: dict) -> None:
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            _halve(leaf)
        elif name in _NAMES and _is_exact(np.asarray(leaf)):
            half = np.asarray(leaf).astype(jnp.bfloat16)
            sharding = getattr(leaf, "sharding", None)
            tree[name] = jax.device_put(half, sharding) if sharding else half


def _is_exact(values: np.ndarray) -> bool:
    """Whether all are bfloat16 numbers; looked at by rows of the first axis."""
    return all(
        np.array_equal(row.astype(jnp.bfloat16).astype(np.float32), row)
        for row in (values if values.ndim > 1 else values[None])
    )
