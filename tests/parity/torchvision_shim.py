"""Lets torchvision be imported beside a torch without CUDA.

The wheel on the package index is built with CUDA. Beside a CPU build of torch its own operators
cannot be loaded, and importing it fails for want of one that resizing does not need.
"""

import functools


@functools.cache
def declare() -> None:
    """Declares what torchvision looks up when it is imported; harmless with CUDA or done twice."""
    import torch

    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


# Dropped libraries take their operators along.
_LIBRARIES = []
