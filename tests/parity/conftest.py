"""Torch is told of torchvision's operators before any of its models is imported."""

import contextlib

from ivx.hf import torchvision_shim

with contextlib.suppress(ModuleNotFoundError):
    torchvision_shim.declare()
