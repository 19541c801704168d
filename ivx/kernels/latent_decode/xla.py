"""Absorbed decoding by blocks of the cache with a running softmax, for CPU and GPU.

Each block is read from memory once, for scores and values alike; neither scores of the whole cache
nor a second copy of it are ever made, and blocks beyond the longest row are not read.

Shapes: q_btne, entries_bse or pages, context_btnr, lse_btn; scores in float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity, read
from ivx.kernels.latent_decode.merge import Attended

# What a block may take. On a CPU it has to stay in the second-level cache between its two uses; on
# a GPU it has to be worth the launch of its kernels: on an H100 64 MiB took a fifth longer.
BLOCK_BYTES = {"cpu": 1 << 20, "gpu": 1 << 28}


def attend(
    q_btne: Float[Array, "b t n e"],
    cache: LatentCache | PagedCache,
    lengths_b: Int[Array, " b"],
    rank: int,
    scale: float,
    block: int | None = None,
) -> Attended:
    """softmax(scale * q entries^T) latents; query t sees the first `lengths_b + t + 1` entries.

    Args:
      q_btne: absorbed queries.
      cache: entries.
      lengths_b: entries before the first query's own.
      rank: R, the part of an entry that is its value.
      scale: of scores.
      block: entries looked at together; by default what BLOCK_BYTES allows.
    """
    rows, count, heads, width = q_btne.shape
    room = capacity(cache)
    block = _block(cache, block or _allowed(rows * width * q_btne.dtype.itemsize))
    q_bme = q_btne.reshape(rows, count * heads, width)
    # Entries that each query sees; the heads of a token stand together.
    visible_bm = jnp.repeat(lengths_b[:, None] + jnp.arange(count) + 1, heads, 1)

    def visit(number, state):
        top_bm, total_bm, sum_bme = state
        first = jnp.minimum(number * block, room - block)
        place_s = first + jnp.arange(block)
        entries, scales_b1s = read(cache, first, block)
        # Nothing has been written beyond the length: whatever lies there must not be multiplied.
        written_bs = place_s < (lengths_b + count)[:, None]
        entries = jnp.where(written_bs[..., None], entries.astype(q_btne.dtype), 0)
        scores = jnp.einsum("bme,bse->bms", q_bme, entries, preferred_element_type=jnp.float32)
        if scales_b1s is not None:
            scores *= scales_b1s
        # The last block reaches back into the one before if blocks do not divide the cache.
        seen = (place_s < visible_bm[..., None]) & (place_s >= number * block)
        scores = jnp.where(seen, scores * scale, masking.MASKED)
        higher_bm = jnp.maximum(top_bm, scores.max(-1))
        weights = jnp.where(seen, jnp.exp(scores - higher_bm[..., None]), 0)
        fade_bm = jnp.exp(top_bm - higher_bm)
        total_bm = total_bm * fade_bm + weights.sum(-1)
        if scales_b1s is not None:
            weights = jnp.where(written_bs[:, None], weights * scales_b1s, 0)
        # Over all of E, and cut afterwards: a cut here would copy the block.
        added = jnp.einsum(
            "bms,bse->bme",
            weights.astype(entries.dtype),
            entries,
            preferred_element_type=jnp.float32,
        )
        return higher_bm, total_bm, sum_bme * fade_bm[..., None] + added

    state = (
        jnp.full(q_bme.shape[:2], masking.MASKED, jnp.float32),
        jnp.zeros(q_bme.shape[:2], jnp.float32),
        jnp.zeros(q_bme.shape, jnp.float32),
    )
    if block == room:
        state = visit(0, state)
    else:
        longest = jnp.clip(jnp.max(lengths_b) + count, 0, room)
        state = jax.lax.fori_loop(0, (longest + block - 1) // block, visit, state)
    top_bm, total_bm, sum_bme = state
    # A query that saw nothing keeps its zeros and the lowest score there is.
    total_bm = jnp.where(total_bm > 0, total_bm, 1)
    context_bmr = sum_bme[..., :rank] / total_bm[..., None]
    return Attended(
        context_bmr.reshape(rows, count, heads, rank).astype(q_btne.dtype),
        (top_bm + jnp.log(total_bm)).reshape(rows, count, heads),
    )


def _allowed(entry_bytes: int) -> int:
    """Entries of one block, whole tiles of 128, when one of all sequences takes so many bytes."""
    allowed = BLOCK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    return max(1, allowed // (128 * entry_bytes)) * 128


def _block(cache: LatentCache | PagedCache, wanted: int) -> int:
    """Entries of one block: as wanted, in whole pages, and no more than there are."""
    page = cache.pages.shape[1] if isinstance(cache, PagedCache) else 1
    return min(max(wanted // page, 1) * page, capacity(cache))
