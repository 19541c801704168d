"""Holds the source model in half the memory during a conversion, without loss.

Checkpoints are stored in bfloat16 and read as float32. Decoder kernels and embeddings whose values
are all representable in bfloat16 are stored as such: at 8B, 18 GB instead of 35. The vision tower
stays float32, since it adds some of its tables before they are cast.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ivx.models.definition import Params

_PARTS = ("language_model", "embed_tokens", "lm_head")
_LEAVES = ("kernel", "embedding")


def compact(params: Params) -> None:
    """Casts leaves to bfloat16 in place, one at a time, so that no second copy is held."""
    for part in _PARTS:
        if part in params:
            _compact(params[part])


def compact_shapes(shapes: Params) -> Params:
    """The shapes after `compact`, of parameters that are all representable in bfloat16."""

    def cast(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        part, *_, name = (entry.key for entry in path)
        if part not in _PARTS or name not in _LEAVES:
            return shape
        return jax.ShapeDtypeStruct(shape.shape, jnp.bfloat16, sharding=shape.sharding)

    return jax.tree_util.tree_map_with_path(cast, shapes)


def expand(params: Params) -> Params:
    """The same values in float32; replaces the leaves in place, so that no second copy is held."""
    for name, leaf in params.items():
        if isinstance(leaf, dict):
            expand(leaf)
        elif leaf.dtype == jnp.bfloat16:
            params[name] = leaf.astype(np.float32)
    return params


def _compact(tree: Params) -> None:
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            _compact(leaf)
        elif name in _LEAVES and _is_lossless(np.asarray(leaf)):
            cast = np.asarray(leaf).astype(jnp.bfloat16)
            sharding = getattr(leaf, "sharding", None)
            tree[name] = jax.device_put(cast, sharding) if sharding else cast


def _is_lossless(values: np.ndarray) -> bool:
    """Whether all values are representable in bfloat16; checks one row of axis 0 at a time."""
    return all(
        np.array_equal(row.astype(jnp.bfloat16).astype(np.float32), row)
        for row in (values if values.ndim > 1 else values[None])
    )
