"""Cross-entropy fused with the output layer."""

from ivx.kernels.cross_entropy.api import TokenScores, cross_entropy, token_scores

__all__ = ["TokenScores", "cross_entropy", "token_scores"]
