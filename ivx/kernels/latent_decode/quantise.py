"""Quantization of latent cache entries to one byte per number, with one float32 scale per token.

    scale = max |entry| / largest        entry ~ scale * stored

The scale covers the full entry, latent and rope key together, so it commutes with both products of
absorbed attention: it multiplies the scores, then the weights, and the block itself only needs a
conversion. int8 spaces its 254 steps evenly between -max and max. e4m3 keeps three mantissa bits at
every magnitude: coarser for entries of uniform magnitude, finer if latent and rope key differ in
magnitude.

Quantization changes the results, so it is an option; the default is `compute`.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ivx.kernels.latent_decode.cache import LatentCache

# Cache dtypes by name; `compute` is the compute dtype.
DTYPES = {"compute": None, "int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


def quantise(entries_bse: Float[Array, "b s e"], dtype: DTypeLike) -> LatentCache:
    """Quantizes entries to int8 or float8_e4m3fn; an entry of zeros has scale 0."""
    entries = entries_bse.astype(jnp.float32)
    scales_bs = jnp.abs(entries).max(-1) / float(
        jnp.iinfo(dtype).max if dtype == jnp.int8 else jnp.finfo(dtype).max
    )
    stored = entries / jnp.where(scales_bs > 0, scales_bs, 1)[..., None]
    if dtype == jnp.int8:
        stored = jnp.round(stored)
    return LatentCache(stored.astype(dtype), scales_bs[:, None])
