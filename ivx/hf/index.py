"""Where the tensors of a folder lie: one file, or the shards that an index names.

Only safetensors are read: other formats of weights can run code when they are opened.
"""

import collections
import pathlib

import safetensors
from safetensors import safe_open

from ivx.errors import UserError
from ivx.hf import json_file

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def shards(folder: pathlib.Path) -> dict[str, list[str]]:
    """File -> names of the tensors that are to be read from it.

    Raises:
      UserError: no weights, or an index that is damaged or leads out of its folder.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(_nothing_to_read(folder))
        with open_shard(folder / SINGLE) as shard:
            return {SINGLE: list(shard.keys())}
    places = json_file.read(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(
            f"{folder / INDEX} is damaged: its weight_map does not say where tensors lie;"
            " fetch it again"
        )
    held = collections.defaultdict(list)
    for name, file in places.items():
        if pathlib.PurePath(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise UserError(
                f"{folder / INDEX} places {name} in {file!r}, expected a .safetensors file of the"
                " same folder; do not use this folder unless you know who made it"
            )
        held[file].append(name)
    return dict(held)


def _nothing_to_read(folder: pathlib.Path) -> str:
    pickled = sorted(path.name for kind in _PICKLED for path in folder.glob(kind))
    if pickled:
        return (
            f"{folder} keeps its weights in {pickled[0]}, a format that can run code when it is"
            " opened; convert them to safetensors first"
        )
    return f"{folder} has neither {INDEX} nor {SINGLE}; give a folder with weights"


def open_shard(path: pathlib.Path):
    """A shard, its header read.

    Raises:
      UserError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, though the index names it; fetch the folder again")
    try:
        return safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; fetch it again") from error


def stored_types(folder: pathlib.Path) -> dict[str, str]:
    """Type of every tensor that the index names, as safetensors writes it (F32, BF16, F16).

    Raises:
      UserError: no weights, or a damaged or missing shard.
    """
    types = {}
    for file, held in shards(folder).items():
        with open_shard(folder / file) as shard:
            types |= {name: shard.get_slice(name).get_dtype() for name in held}
    return types
