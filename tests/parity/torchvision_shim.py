"""The shim of ivx under the name that these tests use."""

from ivx.hf.torchvision_shim import declare

__all__ = ["declare"]
