"""Absorbed decoding over cache blocks with an online softmax, for CPU and GPU.

Each block is read from memory once, for scores and values. Neither the scores of the full cache nor
a second copy of the cache is materialized, and blocks beyond the longest row are not read.

Shapes: q_btne, entries_bse or pages, context_btnr, lse_btn; scores in float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking
from ivx.kernels.latent_decode.attention_output import AttentionOutput
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity, read

# Maximum size of a block. On a CPU, it must stay in the second-level cache between its two uses. On
# a GPU, it must be worth the kernel launches: on an H100, 64 MiB took a fifth longer.
BLOCK_BYTES = {"cpu": 1 << 20, "gpu": 1 << 28}


def attend(
    q_btne: Float[Array, "b t n e"],
    cache: LatentCache | PagedCache,
    lengths_b: Int[Array, " b"],
    rank: int,
    scale: float,
    block: int | None = None,
) -> AttentionOutput:
    """softmax(scale * q entries^T) latents; query t attends to the first `lengths_b + t + 1`.

    Args:
      q_btne: absorbed queries.
      cache: cache entries.
      lengths_b: entries before the first query's own entry.
      rank: R, the part of an entry that is its value.
      scale: scale of the scores.
      block: entries per block; default: as many as BLOCK_BYTES allows.
    """
    rows, count, heads, width = q_btne.shape
    cache_size = capacity(cache)
    block = _block_size(cache, block or _max_entries(rows * width * q_btne.dtype.itemsize))
    q_bme = q_btne.reshape(rows, count * heads, width)
    # Number of visible entries of each query; the heads of a token are adjacent.
    visible_bm = jnp.repeat(lengths_b[:, None] + jnp.arange(count) + 1, heads, 1)

    def visit(index: Array | int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        top_bm, total_bm, sum_bme = state
        first = jnp.minimum(index * block, cache_size - block)
        entry_s = first + jnp.arange(block)
        entries, scales_b1s = read(cache, first, block)
        # Entries beyond the length are uninitialized and must not enter a product.
        written_bs = entry_s < (lengths_b + count)[:, None]
        entries = jnp.where(written_bs[..., None], entries.astype(q_btne.dtype), 0)
        scores = jnp.einsum("bme,bse->bms", q_bme, entries, preferred_element_type=jnp.float32)
        if scales_b1s is not None:
            scores *= scales_b1s
        # If blocks do not divide the cache, the last block overlaps the one before it.
        visible = (entry_s < visible_bm[..., None]) & (entry_s >= index * block)
        scores = jnp.where(visible, scores * scale, masking.MASKED)
        new_top_bm = jnp.maximum(top_bm, scores.max(-1))
        weights = jnp.where(visible, jnp.exp(scores - new_top_bm[..., None]), 0)
        decay_bm = jnp.exp(top_bm - new_top_bm)
        total_bm = total_bm * decay_bm + weights.sum(-1)
        if scales_b1s is not None:
            weights = jnp.where(written_bs[:, None], weights * scales_b1s, 0)
        # Sums all of E and slices afterwards; slicing here would copy the block.
        part = jnp.einsum(
            "bms,bse->bme",
            weights.astype(entries.dtype),
            entries,
            preferred_element_type=jnp.float32,
        )
        return new_top_bm, total_bm, sum_bme * decay_bm[..., None] + part

    state = (
        jnp.full(q_bme.shape[:2], masking.MASKED, jnp.float32),
        jnp.zeros(q_bme.shape[:2], jnp.float32),
        jnp.zeros(q_bme.shape, jnp.float32),
    )
    if block == cache_size:
        state = visit(0, state)
    else:
        longest = jnp.clip(jnp.max(lengths_b) + count, 0, cache_size)
        state = jax.lax.fori_loop(0, (longest + block - 1) // block, visit, state)
    top_bm, total_bm, sum_bme = state
    # A query without visible entries keeps its zeros and the lowest score.
    total_bm = jnp.where(total_bm > 0, total_bm, 1)
    context_bmr = sum_bme[..., :rank] / total_bm[..., None]
    return AttentionOutput(
        context_bmr.reshape(rows, count, heads, rank).astype(q_btne.dtype),
        (top_bm + jnp.log(total_bm)).reshape(rows, count, heads),
    )


def _max_entries(entry_bytes: int) -> int:
    """Maximum entries per block, a multiple of 128; `entry_bytes` covers all sequences."""
    limit = BLOCK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    return max(1, limit // (128 * entry_bytes)) * 128


def _block_size(cache: LatentCache | PagedCache, entries: int) -> int:
    """Rounds a block size to full pages and limits it to the cache capacity."""
    page = cache.pages.shape[1] if isinstance(cache, PagedCache) else 1
    return min(max(entries // page, 1) * page, capacity(cache))
