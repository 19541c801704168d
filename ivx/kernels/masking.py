"""The score of a masked position, shared by the attention ops."""

# Finite, so that a row with no visible key yields a mean instead of NaN. Such rows are padding.
MASKED = -1e30
