"""The model of a folder as transformers itself builds it, to compare ours with.

Latent attention is computed by the file that an export holds, as ivx ships it: code that lies in
the folder is never run.
"""

import pathlib

from ivx.errors import UserError
from ivx.hf import json_file, torchvision_shim


def modules():
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
            " the extra brings it: pip install 'ivx[hf]'"
        ) from error
    torchvision_shim.declare()
    return torch, transformers


def load(folder: pathlib.Path, dtype: str = "float32"):
    """The torch model of a folder, on the CPU and for evaluation.

    Args:
      folder: in the format of Hugging Face.
      dtype: of weights and computation.

    Raises:
      UserError: no transformers, or tensors that it does not find or does not know.
    """
    torch, transformers = modules()
    if json_file.read(folder / "config.json").get("model_type") == "internvideo3":
        from ivx.hf.remote_code import modeling_internvideo3

        kind = modeling_internvideo3.InternVideo3ForConditionalGeneration
    else:
        kind = transformers.Qwen3VLForConditionalGeneration
    model, told = kind.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
    )
    wrong = {key: names for key, names in told.items() if key.endswith("_keys") and names}
    if wrong:
        raise UserError(f"transformers cannot load all of {folder}: {wrong}; export it again")
    return model.eval()
