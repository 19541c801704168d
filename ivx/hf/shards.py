"""The safetensors files of a folder: one file, or shards and an index.

model.safetensors
model-00001-of-00003.safetensors ... + model.safetensors.index.json

Only safetensors are read: other weight formats can execute code when they are opened.
"""

import collections
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors import safe_open

from ivx import progress
from ivx.errors import UserError
from ivx.hf import json_file, names, ranks
from ivx.models.definition import ModelDefinition, Params

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
# Bytes of a file's name.
_MAX_NAME = 255
# As safetensors names them.
_CODES = {DTYPES["bfloat16"]: "BF16", DTYPES["float32"]: "F32"}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

# ------------------------------------------------------------------- reading


def read_index(folder: pathlib.Path) -> dict[str, list[str]]:
    """File name -> names of the tensors to read from it.

    Raises:
      UserError: the folder has no weights, or its index is damaged or names a file outside of it.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(_no_weights(folder))
        with open_shard(folder / SINGLE) as shard:
            return {SINGLE: list(shard.keys())}
    weight_map = json_file.read(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise UserError(
            f"{folder / INDEX} is damaged: its weight_map does not map tensors to files;"
            " download it again"
        )
    shards = collections.defaultdict(list)
    for name, file in weight_map.items():
        if not _is_plain(file):
            raise UserError(
                f"{folder / INDEX} places {json_file.shown_name(name)} in {json_file.shown(file)},"
                " expected a .safetensors file in the same folder; do not use this folder unless"
                " you trust its author"
            )
        shards[file].append(name)
    return dict(shards)


def _is_plain(file: str) -> bool:
    """Whether a file's name stays in its folder, and can be one."""
    return (
        pathlib.PurePath(file).name == file
        and "\\" not in file
        and file.isprintable()
        and len(file.encode()) <= _MAX_NAME
        and file.endswith(".safetensors")
    )


def open_shard(path: pathlib.Path) -> Any:
    """An open safetensors file.

    Raises:
      UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, though the index names it; download the folder again")
    try:
        return safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; download it again") from error


def stored_types(folder: pathlib.Path) -> dict[str, str]:
    """Tensor name -> dtype as safetensors names it (F32, BF16, F16).

    Raises:
      UserError: the folder has no weights, or a shard is damaged or missing.
    """
    types = {}
    for file, tensors in read_index(folder).items():
        with open_shard(folder / file) as shard:
            types |= {name: shard.get_slice(name).get_dtype() for name in tensors}
    return types


def _no_weights(folder: pathlib.Path) -> str:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder} keeps its weights in {pickled[0]}, a format that can execute code when it"
            " is opened; convert them to safetensors first"
        )
    return f"{folder} has neither {INDEX} nor {SINGLE}; give a folder with weights"


# ------------------------------------------------------------------- writing


def write_params(
    folder: pathlib.Path,
    definition: ModelDefinition,
    params: Params,
    dtype: np.dtype,
    shard_bytes: int | float,
    latent_ranks: Sequence[int] = (),
) -> None:
    """Writes all tensors; besides the parameters, one tensor at a time is in memory.

    Args:
      folder: existing.
      definition: the model.
      params: its parameters.
      dtype: of the files.
      shard_bytes: size that no shard exceeds, unless a single tensor does.
      latent_ranks: of each layer, from `ivx.hf.ranks.layer_ranks`.
    """
    weights = [ranks.of_layer(weight, latent_ranks) for weight in names.weights(definition)]
    shards = _plan(weights, dtype.itemsize, shard_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [
            f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
    total = dtype.itemsize * sum(map(_size, weights))
    with progress.Bar(total, "writing weights", "B") as bar:

        def tensor_of(weight: names.Weight) -> np.ndarray:
            bar.advance(dtype.itemsize * _size(weight))
            return _tensor(params, weight, dtype, latent_ranks)

        for file, shard in zip(files, shards, strict=True):
            _save(folder / file, shard, dtype, tensor_of)
    if len(shards) > 1:
        count = sum(_size(weight) for weight in weights)
        weight_map = {
            weight.name: file for file, shard in zip(files, shards, strict=True) for weight in shard
        }
        sizes = {"total_parameters": count, "total_size": count * dtype.itemsize}
        json_file.write(folder / INDEX, {"metadata": sizes, "weight_map": weight_map})


def _save(
    path: pathlib.Path,
    weights: Sequence[names.Weight],
    dtype: np.dtype,
    tensor_of: Callable[[names.Weight], np.ndarray],
) -> None:
    """Writes one file, a tensor at a time: `safetensors.numpy.save_file` holds the file twice.

    8 bytes: length of the header | header, JSON | tensors, as the header places them
    """
    weights = sorted(weights, key=lambda weight: weight.name)
    # Older readers reject a file without a framework in its metadata.
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for weight in weights:
        start, end = end, end + _size(weight) * dtype.itemsize
        header[weight.name] = {
            "dtype": _CODES[dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights:
            file.write(tensor_of(weight).view(np.uint8).data)


def _plan(
    weights: Iterable[names.Weight], itemsize: int, shard_bytes: int | float
) -> list[list[names.Weight]]:
    """Splits weights, in order, into shards; a weight beyond the limit gets its own shard."""
    shards, filled = [[]], 0
    for weight in weights:
        size = _size(weight) * itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(weight)
        filled += size
    return shards


def _tensor(
    params: Params, weight: names.Weight, dtype: np.dtype, latent_ranks: Sequence[int]
) -> np.ndarray:
    array = np.asarray(names.leaf(params, weight.path))
    array = array if weight.layer is None else array[weight.layer]
    padded = weight.form.to_theirs(array.astype(dtype, copy=False))
    # safetensors writes the raw memory: a transposed view would be stored in the wrong order.
    return np.ascontiguousarray(ranks.without_padding(weight, padded, latent_ranks))


def _size(weight: names.Weight) -> int:
    return int(np.prod(weight.shape))
