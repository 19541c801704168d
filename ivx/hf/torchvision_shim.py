"""Lets torchvision be imported beside a torch without CUDA.

The wheel on the package index is built with CUDA. Beside a CPU build of torch its own operators
cannot be loaded, and importing it fails for want of one that resizing does not need; transformers
then fails to import Qwen3-VL, although its models need nothing of torchvision.
"""

import functools


@functools.cache
def declare() -> None:
    """Declares what a torchvision that cannot be imported looks up; else changes nothing.

    Raises:
      ModuleNotFoundError: torch is not installed.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


# Dropped libraries take their operators along.
_LIBRARIES = []
