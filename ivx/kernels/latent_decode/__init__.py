"""Absorbed latent attention of new tokens over a latent cache."""

from ivx.kernels.latent_decode.api import latent_decode

__all__ = ["latent_decode"]
