"""Parameters into safetensors files, each no larger than asked, with an index when there are more.

model.safetensors
model-00001-of-00003.safetensors ... + model.safetensors.index.json
"""

import pathlib
from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ivx.hf import json_file, names, ranks
from ivx.hf.index import INDEX, SINGLE
from ivx.models.definition import ModelDefinition, Params

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}


def write_params(
    folder: pathlib.Path,
    definition: ModelDefinition,
    params: Params,
    dtype: np.dtype,
    shard_bytes: float,
    latent_ranks: Sequence[int] = (),
) -> None:
    """Writes all tensors, latents as wide as `ivx.hf.ranks.found` says.

    One shard at a time is in memory, in `dtype`.
    """
    weights = [ranks.of_layer(weight, latent_ranks) for weight in names.weights(definition)]
    shards = _plan(weights, dtype.itemsize, shard_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [
            f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
    for file, shard in zip(files, shards, strict=True):
        tensors = {weight.name: _tensor(params, weight, dtype, latent_ranks) for weight in shard}
        _save(tensors, folder / file)
    if len(shards) > 1:
        count = sum(_size(weight) for weight in weights)
        places = {
            weight.name: file for file, shard in zip(files, shards, strict=True) for weight in shard
        }
        sizes = {"total_parameters": count, "total_size": count * dtype.itemsize}
        json_file.write(folder / INDEX, {"metadata": sizes, "weight_map": places})


def _save(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes one file, which others may read as they may the files beside it."""
    path.touch()
    mode = path.stat().st_mode
    # Older readers refuse a file that does not say from which framework it is.
    save_file(tensors, path, metadata={"format": "pt"})
    # The writer makes a file of its own, for its owner alone.
    path.chmod(mode)


def _plan(
    weights: Iterable[names.Weight], itemsize: int, shard_bytes: float
) -> list[list[names.Weight]]:
    """Weights in order, cut before a shard grows too large; a larger one has a shard of its own."""
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
    array = names.leaf(params, weight.path)
    array = np.asarray(array if weight.layer is None else array[weight.layer])
    whole = weight.form.to_theirs(array.astype(dtype))
    # The writer takes the memory as it lies: a transposed view would come out scrambled.
    return np.ascontiguousarray(ranks.cut(weight, whole, latent_ranks))


def _size(weight: names.Weight) -> int:
    return int(np.prod(weight.shape))
