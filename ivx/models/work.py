"""Useful FLOPs of a model by part: what mathematics asks for, not what a device happens to do.

A product of [m, k] and [k, n] is 2 m k n. Of attention, pairs of a query and an earlier key of its
sample count, and no others. A backward pass is twice a forward pass; what is made again in it does
not count.
"""

from ivx.models.spec import ModelSpec

# Patches that join into a token.
_MERGED = 4


def forward(spec: ModelSpec, tokens: int, pairs: int, patches: int, slice_patches: int) -> dict:
    """FLOPs of a forward pass over a pack, by part.

    Args:
      spec: sizes.
      tokens: of the pack.
      pairs: of a query and a key that it sees, itself too: T (T + 1) / 2 for one sample.
      patches: of the pack.
      slice_patches: of a slice, those that see each other.
    """
    text, vision = spec.text, spec.vision
    wide = text.heads * text.head_dim
    if text.attention == "m2la":
        # Queries and keys have a part without rope and one with.
        projections = text.width * (2 * wide + text.kv_rank + text.head_dim + wide)
        made, pair = text.kv_rank * 2 * wide, text.heads * 3 * text.head_dim
    elif text.attention == "m2la_exact":
        # As grouped attention, then from keys and values to the cache, and of each query to P.
        both = 2 * text.kv_heads * text.head_dim
        projections = text.width * (2 * wide + both)
        projections += both * (text.kv_rank + text.head_dim) + wide * text.head_dim
        made, pair = text.kv_rank * 2 * wide, text.heads * 3 * text.head_dim
    else:
        projections = text.width * (2 * wide + 2 * text.kv_heads * text.head_dim)
        made, pair = 0, text.heads * 2 * text.head_dim
    joined = _MERGED * vision.width
    mergers = (1 + len(vision.taps)) * (joined**2 + joined * text.width)
    patch = vision.depth * (4 * vision.width**2 + 2 * vision.width * vision.mlp)
    return {
        "vision tower": 2 * patches * (patch + 1536 * vision.width),
        "vision attention": 2 * patches * vision.depth * 2 * vision.width * slice_patches,
        "mergers": 2 * patches // _MERGED * mergers,
        "attention projections": 2 * tokens * text.depth * projections,
        "keys and values from latents": 2 * tokens * text.depth * made,
        "attention": 2 * pairs * text.depth * pair,
        "feed-forward": 2 * tokens * text.depth * 3 * text.width * text.mlp,
        "head": 2 * tokens * text.width * text.vocab,
    }


def statistics(spec: ModelSpec) -> int:
    """Numbers that a conversion sums over tokens, 2 FLOPs a token each; the few of a head left out.

    See `ivx.conversion.statistics`.
    """
    text = spec.text
    entry, queries, keys = text.width + 1, text.heads * text.head_dim, text.kv_heads * text.head_dim
    sums = entry * (entry + queries + 2 * keys) + queries * text.head_dim + (2 * keys) ** 2
    return text.depth * sums


def training(parts: dict) -> dict:
    """FLOPs of a training step whose forward pass has these."""
    return {part: 3 * flops for part, flops in parts.items()}
