"""Reverse KL divergence between two models, fused with their output layers."""

from ivx.kernels.reverse_kl.api import reverse_kl

__all__ = ["reverse_kl"]
