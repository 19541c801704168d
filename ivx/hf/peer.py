"""Loads a folder with transformers, as a reference to compare ivx with.

Latent attention runs the modeling file that ivx ships with its exports; code in the folder is never
executed.
"""

import functools
import pathlib
from types import ModuleType
from typing import TYPE_CHECKING

from ivx.errors import UserError
from ivx.hf import json_file

if TYPE_CHECKING:
    import torch

# A torch library that is garbage-collected removes its operators.
_LIBRARIES = []


def modules() -> tuple[ModuleType, ModuleType]:
    """The modules (torch, transformers).

    Raises:
      UserError: they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"--peer=transformers needs a package that is not installed ({error});"
            " install it with `pip install 'ivx[hf]'`"
        ) from error
    declare_torchvision_operators()
    return torch, transformers


def load(folder: pathlib.Path, dtype: str = "float32") -> "torch.nn.Module":
    """The torch model of a folder, on the CPU, in evaluation mode.

    Args:
      folder: in the Hugging Face format.
      dtype: of weights and computation.

    Raises:
      UserError: transformers is not installed, or finds missing or unexpected tensors.
    """
    torch, transformers = modules()
    if json_file.read(folder / "config.json").get("model_type") == "internvideo3":
        from ivx.hf.remote_code import modeling_internvideo3

        model_class = modeling_internvideo3.InternVideo3ForConditionalGeneration
    else:
        model_class = transformers.Qwen3VLForConditionalGeneration
    model, report = model_class.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
    )
    mismatches = {key: names for key, names in report.items() if key.endswith("_keys") and names}
    if mismatches:
        raise UserError(f"transformers cannot load all of {folder}: {mismatches}; export it again")
    return model.eval()


@functools.cache
def declare_torchvision_operators() -> None:
    """Makes torchvision importable next to a torch without CUDA.

    The wheel on PyPI is built with CUDA. Next to a CPU build of torch its operators do not load,
    and its import fails because one is missing that resizing does not need. transformers then fails
    to import Qwen3-VL, although its models need nothing of torchvision. This function declares the
    operators that such a torchvision looks up; otherwise it changes nothing.

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
