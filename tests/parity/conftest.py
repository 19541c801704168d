"""Declares the operators of torchvision before any model of torch is imported."""

import contextlib

from ivx.hf import peer

with contextlib.suppress(ModuleNotFoundError):
    peer.declare_torchvision_operators()
