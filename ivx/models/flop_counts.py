"""Useful FLOPs of a model by part: the FLOPs of the mathematics, not of the executed program.

A product of [m, k] and [k, n] has 2 m k n FLOPs. Attention counts only pairs of a query and a key
that it attends to. A backward pass counts as two forward passes; recomputation does not count.
"""

from ivx.models.spec import ModelSpec

# Patches per visual token.
_MERGED = 4


def forward(
    spec: ModelSpec, tokens: int, pairs: int, patches: int, slice_patches: float
) -> dict[str, int]:
    """FLOPs of a forward pass over a pack, by part.

    Args:
      spec: sizes of the model.
      tokens: tokens of the pack.
      pairs: pairs of a query and a visible key, itself included: T (T + 1) / 2 for one sample.
      patches: patches of the pack.
      slice_patches: patches of a slice, which attend to each other.
    """
    text, vision = spec.text, spec.vision
    wide = text.heads * text.head_dim
    if text.attention == "m2la":
        # Queries and keys have a part without rope and a part with rope.
        projections = text.width * (2 * wide + text.kv_rank + text.head_dim + wide)
        up_projection, pair = text.kv_rank * 2 * wide, text.heads * 3 * text.head_dim
    elif text.attention == "m2la_exact":
        # Grouped attention, then the projections of keys and values to the cache and of queries to
        # P.
        keys_values = 2 * text.kv_heads * text.head_dim
        projections = text.width * (2 * wide + keys_values)
        projections += keys_values * (text.kv_rank + text.head_dim) + wide * text.head_dim
        up_projection, pair = text.kv_rank * 2 * wide, text.heads * 3 * text.head_dim
    else:
        projections = text.width * (2 * wide + 2 * text.kv_heads * text.head_dim)
        up_projection, pair = 0, text.heads * 2 * text.head_dim
    joined = _MERGED * vision.width
    mergers = (1 + len(vision.taps)) * (joined**2 + joined * text.width)
    patch = vision.depth * (4 * vision.width**2 + 2 * vision.width * vision.mlp)
    return {
        "vision tower": 2 * patches * (patch + 1536 * vision.width),
        "vision attention": 2 * patches * vision.depth * 2 * vision.width * slice_patches,
        "mergers": 2 * patches // _MERGED * mergers,
        "attention projections": 2 * tokens * text.depth * projections,
        "keys and values from latents": 2 * tokens * text.depth * up_projection,
        "attention": 2 * pairs * text.depth * pair,
        "feed-forward": 2 * tokens * text.depth * 3 * text.width * text.mlp,
        "head": 2 * tokens * text.width * text.vocab,
    }


def statistics(spec: ModelSpec) -> int:
    """Sums over tokens that a conversion accumulates, 2 FLOPs per token each.

    The few statistics per head are left out. See `ivx.conversion.statistics`.
    """
    text = spec.text
    entry, queries, keys = text.width + 1, text.heads * text.head_dim, text.kv_heads * text.head_dim
    sums = entry * (entry + queries + 2 * keys) + queries * text.head_dim + (2 * keys) ** 2
    return text.depth * sums


def training(parts: dict[str, int]) -> dict[str, int]:
    """FLOPs of a training step, from those of its forward pass."""
    return {part: 3 * flops for part, flops in parts.items()}
