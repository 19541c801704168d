"""Latent attention (M2LA) over full sequences, for training and prefill."""

from ivx.kernels.latent_attention.api import ALIVE, GROUP, heads_at_a_time, latent_attention

__all__ = ["ALIVE", "GROUP", "heads_at_a_time", "latent_attention"]
