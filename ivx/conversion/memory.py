"""Host memory of a conversion besides the source model and activations.

`python -m tests.conversion_memory` compares it with what a smaller model takes.
"""

from ivx.models.spec import TextSpec

# Held during the pass over calibration batches only.
BATCH_SUMS = "sums of a batch, float32"
# Held during the pass and the algebra.
SUMS = "sums, float64"


def sizes(text: TextSpec) -> dict[str, float]:
    """Bytes by name; all but `BATCH_SUMS` are held at the same time."""
    wide, narrow = text.heads * text.head_dim, text.kv_heads * text.head_dim
    inputs, compressed = text.width + 1, (2 * text.kv_heads - 1) * text.head_dim
    moments = inputs**2 + inputs * (wide + 2 * narrow) + 4 * narrow**2 + wide * text.head_dim
    cached = text.kv_rank + text.head_dim
    attention = inputs * (2 * wide + cached) + text.kv_rank * 2 * wide
    # q, k, v, o twice (as read, and by heads), the queries and keys of the result, square roots.
    layer = (
        2 * inputs * 2 * (wide + narrow) + attention + 6 * compressed**2 + 3 * inputs * compressed
    )
    return {
        SUMS: 8 * text.depth * moments,
        BATCH_SUMS: 4 * text.depth * moments,
        "fitted queries and keys, float64": 8 * text.depth * inputs * (wide + narrow),
        "new attention, float32": 4 * text.depth * attention,
        "one layer in conversion, float64": 8 * layer,
    }
