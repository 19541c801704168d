"""Reads the weights of a folder into an ivx parameter tree.

    index or single file -> headers of the shards -> one error with every mismatch
                         -> block by block: folder form -> ivx form, float32, into its layer

Besides the parameters, only one block of a shard is held in memory.
"""

import collections
import pathlib
import re
from collections.abc import Set
from typing import Any

import numpy as np

from ivx.errors import UserError
from ivx.hf import names, ranks
from ivx.hf import shards as shard_files
from ivx.models.definition import ModelDefinition, Params

# Dtypes whose values float32 represents exactly.
_DTYPES = ("F32", "BF16", "F16")
# Approximate size of a block.
_BLOCK_BYTES = 4 << 20


def read_params(
    folder: pathlib.Path, definition: ModelDefinition, latent_ranks: tuple[int, ...] = ()
) -> Params:
    """All parameters, as numpy float32 arrays in host memory.

    The index locates each tensor; the names of the shards have no meaning.

    Args:
      folder: of the weights.
      definition: the model.
      latent_ranks: of each layer, if they differ (see `ivx.hf.ranks`).

    Raises:
      UserError: the folder has no weights, a shard is damaged or missing, or the tensors do not
        match the model; the message lists every mismatch.
    """
    shards = shard_files.read_index(folder)
    weights = {
        weight.name: ranks.of_layer(weight, latent_ranks) for weight in names.weights(definition)
    }
    _check(folder, shards, weights, definition.spec.text.tied)
    params = _allocate(definition.abstract_params)
    for file, tensors in shards.items():
        with shard_files.open_shard(folder / file) as shard:
            for name in tensors:
                if name in weights:
                    _read(shard.get_slice(name), weights[name], params, latent_ranks)
    return params


def _read(tensor: Any, weight: names.Weight, params: Params, latent_ranks: tuple[int, ...]) -> None:
    """Copies one tensor into its layer, through views in the form of the folder."""
    array = names.leaf(params, weight.path)
    theirs = weight.form.to_theirs(array if weight.layer is None else array[weight.layer])
    for view, first in ranks.views(weight, theirs, latent_ranks):
        rows = max(1, _BLOCK_BYTES // max(1, view[:1].nbytes))
        for row in range(0, len(view), rows):
            block = view[row : row + rows]
            block[...] = tensor[first + row : first + row + len(block)]


def _check(
    folder: pathlib.Path,
    shards: dict[str, list[str]],
    weights: dict[str, names.Weight],
    tied: bool,
) -> None:
    """Compares names, shapes and dtypes with those of the model.

    Raises:
      UserError: lists every mismatch.
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
        f"{problem} {', '.join(_group_layers(group))}"
        for problem, group in (
            ("missing", weights.keys() - present),
            ("unexpected", listed.keys() - weights.keys()),
        )
        if group
    ] + sorted(mismatches)
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
        layer = re.search(r"\.(\d+)\.", name)
        groups[re.sub(r"\.\d+\.", ".{}.", name, count=1)].append(int(layer[1]) if layer else None)
    return [
        pattern.replace("{}", str(layers[0]))
        if len(layers) == 1
        else pattern.replace("{}", "{" + ",".join(map(str, sorted(layers))) + "}")
        for pattern, layers in sorted(groups.items())
    ]


def _brackets(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _allocate(abstract: Params) -> Params:
    """Uninitialized arrays for the parameters, all of which are written later."""
    return {
        key: _allocate(value) if isinstance(value, dict) else np.empty(value.shape, np.float32)
        for key, value in abstract.items()
    }
