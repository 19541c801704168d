"""Weights of a folder into our parameter tree.

    index or single file -> headers of the shards -> everything amiss, at once
                         -> tensor by tensor: their form -> our form, float32, into its layer

Only safetensors are read: other formats of weights can run code when they are opened.
"""

import collections
import pathlib
import re

import numpy as np
import safetensors
from safetensors import safe_open

from ivx.errors import UserError
from ivx.hf import json_file, names
from ivx.models.definition import ModelDefinition, Params

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Types that float32 holds exactly.
_TYPES = ("F32", "BF16", "F16")


def read_params(folder: pathlib.Path, definition: ModelDefinition) -> Params:
    """All parameters, as numpy float32 arrays in host memory.

    Where a tensor lies is taken from the index, never from the names of the shards.

    Raises:
      UserError: no weights, a damaged or missing shard, or tensors that are not those of the
        model; all of these are listed at once.
    """
    shards = _shards(folder)
    wanted = {weight.name: weight for weight in names.weights(definition)}
    _check(folder, shards, wanted)
    params = _empty(definition.abstract_params)
    for file, held in shards.items():
        with _open(folder / file) as shard:
            for name in held:
                weight = wanted[name]
                array = weight.form.to_ours(shard.get_tensor(name))
                target = names.leaf(params, weight.path)
                target[... if weight.layer is None else weight.layer] = array
    return params


def stored_types(folder: pathlib.Path) -> dict[str, str]:
    """Type of every tensor that the index names, as safetensors writes it (F32, BF16, F16).

    Raises:
      UserError: no weights, or a damaged or missing shard.
    """
    types = {}
    for file, held in _shards(folder).items():
        with _open(folder / file) as shard:
            types |= {name: shard.get_slice(name).get_dtype() for name in held}
    return types


def _shards(folder: pathlib.Path) -> dict[str, list[str]]:
    """File -> names of the tensors that are to be read from it."""
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(_nothing_to_read(folder))
        with _open(folder / SINGLE) as shard:
            return {SINGLE: list(shard.keys())}
    places = json_file.read(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(
            f"{folder / INDEX} is damaged: its weight_map does not say where tensors lie;"
            " fetch it again"
        )
    shards = collections.defaultdict(list)
    for name, file in places.items():
        if pathlib.PurePath(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise UserError(
                f"{folder / INDEX} places {name} in {file!r}, expected a .safetensors file of the"
                " same folder; do not use this folder unless you know who made it"
            )
        shards[file].append(name)
    return dict(shards)


def _nothing_to_read(folder: pathlib.Path) -> str:
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    if pickled:
        return (
            f"{folder} keeps its weights in {pickled[0]}, a format that can run code when it is"
            " opened; convert them to safetensors first"
        )
    return f"{folder} has neither {INDEX} nor {SINGLE}; give a folder with weights"


def _open(path: pathlib.Path):
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


def _check(folder: pathlib.Path, shards: dict, wanted: dict[str, names.Weight]) -> None:
    """Compares names, shapes and types with those of the model.

    Raises:
      UserError: lists all that differ.
    """
    found, wrong = set(), []
    for file, held in shards.items():
        with _open(folder / file) as shard:
            present = set(shard.keys())
            for name in held:
                if name not in present or name not in wanted:
                    continue
                found.add(name)
                view = shard.get_slice(name)
                shape, kind = tuple(view.get_shape()), view.get_dtype()
                if shape != wanted[name].shape:
                    wrong.append(
                        f"{name} is {_sides(shape)}, expected {_sides(wanted[name].shape)}"
                    )
                elif kind not in _TYPES:
                    wrong.append(f"{name} is of type {kind}, expected {', '.join(_TYPES)}")
    listed = {name for held in shards.values() for name in held}
    complaints = [
        f"{what} {', '.join(_gather(some))}"
        for what, some in (
            ("missing", wanted.keys() - found),
            ("unexpected", listed - wanted.keys()),
        )
        if some
    ] + sorted(wrong)
    if complaints:
        raise UserError(
            f"{folder} does not hold the weights of this model: {'; '.join(complaints)};"
            " see that config.json belongs to the weights"
        )


def _gather(some: set[str]) -> list[str]:
    """Names that differ in their layer alone as one: `layers.{0,1,2}.mlp.up_proj.weight`."""
    kinds = collections.defaultdict(list)
    for name in some:
        number = re.search(r"\.(\d+)\.", name)
        kinds[re.sub(r"\.\d+\.", ".{}.", name, count=1)].append(int(number[1]) if number else None)
    return [
        pattern.replace("{}", str(layers[0]))
        if len(layers) == 1
        else pattern.replace("{}", "{" + ",".join(map(str, sorted(layers))) + "}")
        for pattern, layers in sorted(kinds.items())
    ]


def _sides(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _empty(abstract: Params) -> Params:
    """Room for the parameters, every number of which is written later."""
    return {
        key: _empty(value) if isinstance(value, dict) else np.empty(value.shape, np.float32)
        for key, value in abstract.items()
    }
