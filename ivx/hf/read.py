"""Weights of a folder into our parameter tree.

    index or single file -> headers of the shards -> everything amiss, at once
                         -> block by block: their form -> our form, float32, into its layer

No more of a shard than a block is held besides the parameters themselves.
"""

import collections
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from ivx.errors import UserError
from ivx.hf import index, names, ranks
from ivx.models.definition import ModelDefinition, Params

# Types that float32 holds exactly.
_TYPES = ("F32", "BF16", "F16")
# Bytes of a block, about.
_BLOCK = 4 << 20


def read_params(
    folder: pathlib.Path, definition: ModelDefinition, latent_ranks: Sequence[int] = ()
) -> Params:
    """All parameters, as numpy float32 arrays in host memory.

    Where a tensor lies is taken from the index, never from the names of the shards.

    Args:
      folder: of the weights.
      definition: the model.
      latent_ranks: of each layer, where they differ (see `ivx.hf.ranks`).

    Raises:
      UserError: no weights, a damaged or missing shard, or tensors that are not those of the
        model; all of these are listed at once.
    """
    shards = index.shards(folder)
    wanted = {
        weight.name: ranks.of_layer(weight, latent_ranks) for weight in names.weights(definition)
    }
    _check(folder, shards, wanted, definition.spec.text.tied)
    params = _empty(definition.abstract_params)
    for file, held in shards.items():
        with index.open_shard(folder / file) as shard:
            for name in held:
                if name in wanted:
                    _read(shard.get_slice(name), wanted[name], params, latent_ranks)
    return params


def _read(tensor, weight: names.Weight, params: Params, latent_ranks: Sequence[int]) -> None:
    """Copies one tensor into its layer, through views that lie as the tensor does."""
    array = names.leaf(params, weight.path)
    theirs = weight.form.to_theirs(array if weight.layer is None else array[weight.layer])
    for view, first in ranks.rooms(weight, theirs, latent_ranks):
        rows = max(1, _BLOCK // max(1, view[:1].nbytes))
        for row in range(0, len(view), rows):
            room = view[row : row + rows]
            room[...] = tensor[first + row : first + row + len(room)]


def _check(folder: pathlib.Path, shards: dict, wanted: dict[str, names.Weight], tied: bool) -> None:
    """Compares names, shapes and types with those of the model.

    Raises:
      UserError: lists all that differ.
    """
    found, wrong = set(), []
    for file, held in shards.items():
        with index.open_shard(folder / file) as shard:
            present = set(shard.keys())
            for name in held:
                if name not in present or name not in wanted:
                    continue
                found.add(name)
                view = shard.get_slice(name)
                shape, kind = tuple(view.get_shape()), view.get_dtype()
                if shape != wanted[name].shape:
                    wrong.append(
                        f"{name} of {file} is {_sides(shape)},"
                        f" expected {_sides(wanted[name].shape)}"
                    )
                elif kind not in _TYPES:
                    wrong.append(
                        f"{name} of {file} is of type {kind}, expected {', '.join(_TYPES)}"
                    )
    listed = {name: file for file, held in shards.items() for name in held}
    if tied and names.HEAD in listed and not wrong:
        wrong += _unlike_embedding(folder, listed)
        del listed[names.HEAD]
    complaints = [
        f"{what} {', '.join(_gather(some))}"
        for what, some in (
            ("missing", wanted.keys() - found),
            ("unexpected", listed.keys() - wanted.keys()),
        )
        if some
    ] + sorted(wrong)
    if complaints:
        raise UserError(
            f"{folder} does not hold the weights of this model: {'; '.join(complaints)};"
            " see that config.json belongs to the weights"
        )


def _unlike_embedding(folder: pathlib.Path, listed: dict[str, str]) -> list[str]:
    """Some writers store a tied head all the same: it has to equal the embedding."""
    files = [listed.get(name) for name in (names.HEAD, names.EMBEDDING)]
    if None in files:
        return []
    shards = [index.open_shard(folder / file) for file in files]
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
