"""Entries of a latent cache in one byte a number, with one float32 scale a token.

    scale = max |entry| / largest        entry ~ scale * stored

The scale is that of the whole entry, latent and rope key together, so that it commutes out of both
products of absorbed attention: scores are scaled by it, then weights, and the block itself is only
converted. int8 spends its 254 steps evenly between -max and max; e4m3 keeps three bits after the
leading one at every magnitude, which is coarser when an entry is of one scale and finer when latent
and rope key are of unlike ones.

This changes the mathematics: it is an option, `compute` unless asked for.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ivx.kernels.latent_decode.cache import LatentCache

# Dtypes of a cache by name; `compute` is that of computation.
DTYPES = {"compute": None, "int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


def quantise(entries_bse: Float[Array, "b s e"], dtype: jnp.dtype) -> LatentCache:
    """The entries in `dtype`, int8 or float8_e4m3fn; an entry of zeros has the scale 0."""
    entries = entries_bse.astype(jnp.float32)
    scales_bs = jnp.abs(entries).max(-1) / float(
        jnp.iinfo(dtype).max if dtype == jnp.int8 else jnp.finfo(dtype).max
    )
    stored = entries / jnp.where(scales_bs > 0, scales_bs, 1)[..., None]
    if dtype == jnp.int8:
        stored = jnp.round(stored)
    return LatentCache(stored.astype(dtype), scales_bs[:, None])
