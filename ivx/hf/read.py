"""Reads the weights of a folder into an ivx parameter tree.

    index or single file -> headers of the shards -> one error with every mismatch
                         -> array by array: its blocks, folder form -> ivx form, cast, each into its
                            layer

Besides the parameters, only one array and one block of a shard are held in memory.
"""

import collections
import math
import pathlib
import re
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import numpy as np

from ivx import progress
from ivx.errors import UserError
from ivx.hf import names, ranks
from ivx.hf import shards as shard_files
from ivx.hf.json_file import shown_name
from ivx.models.definition import ModelDefinition, Params

# Dtypes whose values float32 represents exactly.
_DTYPES = ("F32", "BF16", "F16")
# Approximate size of a block.
_BLOCK_BYTES = 4 << 20
# The index of a layer in the name of a tensor.
_LAYER = re.compile(r"\.([0-9]{1,6})\.")
# Most names in a list of a message, and most layers of a name.
_NAMED, _LAYERS = 10, 100


def read_params(
    folder: pathlib.Path,
    definition: ModelDefinition,
    latent_ranks: tuple[int, ...] = (),
    abstract: Params | None = None,
    place: Callable[[np.ndarray, Any], Any] = lambda array, leaf: array,
    allow_nonfinite: bool = False,
) -> Params:
    """All parameters, by default as numpy float32 arrays in host memory.

    The index locates each tensor; the names of the shards have no meaning.

    Args:
      folder: of the weights.
      definition: the model.
      latent_ranks: of each layer, if they differ (see `ivx.hf.ranks`).
      abstract: shapes and dtypes to read; None is float32.
      place: called with each array and its leaf of `abstract`; what it returns, such as an array
        on a device, takes the place of the array.
      allow_nonfinite: accept weights that are NaN or infinite.

    Raises:
      UserError: the folder has no weights, a shard is damaged or missing, the tensors do not match
        the model, or a weight is NaN or infinite; the message names the first of them.
    """
    shards = shard_files.read_index(folder)
    weights = {
        weight.name: ranks.of_layer(weight, latent_ranks) for weight in names.weights(definition)
    }
    _check(folder, shards, weights, definition.spec.text.tied)
    # Path of an array -> file -> its tensors, most of which are one layer of the array.
    sources = collections.defaultdict(lambda: collections.defaultdict(list))
    for file, tensors in shards.items():
        for name in tensors:
            if name in weights:
                sources[weights[name].path][file].append(weights[name])
    nonfinite = {}

    def read(path: tuple, leaf: Any) -> Any:
        array = np.empty(leaf.shape, leaf.dtype)
        for file, parts in sources[tuple(entry.key for entry in path)].items():
            with shard_files.open_shard(folder / file) as shard:
                for weight in parts:
                    bad = _read(shard.get_slice(weight.name), weight, array, latent_ranks)
                    nonfinite.update({weight.name: bad} if bad else {})
                    bar.advance(math.prod(weight.shape))
        return place(array, leaf)

    total = sum(math.prod(weight.shape) for weight in weights.values())
    with progress.Bar(total, f"reading {folder.name}", "numbers") as bar:
        params = jax.tree_util.tree_map_with_path(read, abstract or definition.abstract_params)
    if nonfinite and not allow_nonfinite:
        listed = _first([f"{name} ({count:,})" for name, count in nonfinite.items()])
        raise UserError(
            f"{folder} holds {sum(nonfinite.values()):,} weights that are NaN or infinite, in"
            f" {listed}; download it again, or import it as it is with --allow_nonfinite"
        )
    return params


def _read(
    tensor: Any, weight: names.Weight, array: np.ndarray, latent_ranks: tuple[int, ...]
) -> int:
    """Copies one tensor into its layer, through views in the form of the folder.

    Returns:
      How many of its values are NaN or infinite.
    """
    nonfinite = 0
    theirs = weight.form.to_theirs(array if weight.layer is None else array[weight.layer])
    for view, first in ranks.views(weight, theirs, latent_ranks):
        rows = max(1, _BLOCK_BYTES // max(1, view[:1].nbytes))
        for row in range(0, len(view), rows):
            block = view[row : row + rows]
            block[...] = tensor[first + row : first + row + len(block)]
            nonfinite += block.size - int(np.count_nonzero(np.isfinite(block)))
    return nonfinite


def _check(
    folder: pathlib.Path,
    shards: dict[str, list[str]],
    weights: dict[str, names.Weight],
    tied: bool,
) -> None:
    """Compares names, shapes and dtypes with those of the model.

    Raises:
      UserError: names the first mismatches of each kind, and counts the others.
    """
    present, mismatches = set(), []
    for file, tensors in shards.items():
        with shard_files.open_shard(folder / file) as shard:
            stored = set(shard.keys())
            for name in tensors:
                if name not in stored or name not in weights:
                    continue
                present.add(name)
                view = shard.get_slice(name)
                shape, dtype = tuple(view.get_shape()), view.get_dtype()
                if shape != weights[name].shape:
                    mismatches.append(
                        f"{name} of {file} is {_brackets(shape)},"
                        f" expected {_brackets(weights[name].shape)}"
                    )
                elif dtype not in _DTYPES:
                    mismatches.append(
                        f"{name} of {file} is of type {dtype}, expected {', '.join(_DTYPES)}"
                    )
    listed = {name: file for file, tensors in shards.items() for name in tensors}
    if tied and names.HEAD in listed and not mismatches:
        mismatches += _compare_tied_head(folder, listed)
        del listed[names.HEAD]
    problems = [
        f"{problem} {_first(_group_layers(group))}"
        for problem, group in (
            ("missing", weights.keys() - present),
            ("unexpected", listed.keys() - weights.keys()),
        )
        if group
    ]
    if mismatches:
        problems.append(_first(sorted(mismatches), "; "))
    if problems:
        raise UserError(
            f"{folder} does not hold the weights of this model: {'; '.join(problems)};"
            " check that config.json belongs to the weights"
        )


def _compare_tied_head(folder: pathlib.Path, listed: dict[str, str]) -> list[str]:
    """A mismatch if a tied head, which some writers store redundantly, differs."""
    files = [listed.get(name) for name in (names.HEAD, names.EMBEDDING)]
    if None in files:
        return []
    shards = [shard_files.open_shard(folder / file) for file in files]
    with shards[0] as first, shards[1] as second:
        head, table = first.get_slice(names.HEAD), second.get_slice(names.EMBEDDING)
        shape = head.get_shape()
        if shape == table.get_shape() and all(
            np.array_equal(head[row : row + 256], table[row : row + 256])
            for row in range(0, shape[0], 256)
        ):
            return []
    return [
        f"{names.HEAD} of {files[0]} differs from {names.EMBEDDING},"
        " to which config.json ties it (tie_word_embeddings)"
    ]


def _group_layers(tensors: Set[str]) -> list[str]:
    """Merges names that differ only in their layer: `layers.{0,1,2}.mlp.up_proj.weight`."""
    groups = collections.defaultdict(list)
    for name in tensors:
        before, layer, after = [*_LAYER.split(name, maxsplit=1), None, None][:3]
        groups[before, after].append(layer and int(layer))
    merged = []
    for (before, after), layers in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] or "")
    ):
        if after is None:
            merged.append(shown_name(before))
        elif len(layers) == 1:
            merged.append(shown_name(f"{before}.{layers[0]}.{after}"))
        else:
            merged.append(
                shown_name(f"{before}.{{{_first(sorted(layers), ',', _LAYERS)}}}.{after}")
            )
    return merged


def _first(items: Sequence[object], separator: str = ", ", most: int = _NAMED) -> str:
    """The first items, and a count of the others."""
    listed = separator.join(map(str, items[:most]))
    return listed if len(items) <= most else f"{listed} and {len(items) - most:,} more"


def _brackets(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
