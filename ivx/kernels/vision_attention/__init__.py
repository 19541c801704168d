"""Attention among the patches of each slice (two frames) of a pack."""

from ivx.kernels.vision_attention.api import vision_attention

__all__ = ["vision_attention"]
