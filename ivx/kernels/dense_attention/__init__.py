"""Causal attention within the samples of a pack, with explicit keys and values."""

from ivx.kernels.dense_attention.api import attend, causal_attention

__all__ = ["attend", "causal_attention"]
