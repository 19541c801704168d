"""Greedy decoding of a batch of prompts with the model's own cache (latent for M2LA).

    prefill:  the prompts side by side, one a row, padded on the right; every layer's cache is kept
    decode:   one token a step for all rows, until each has ended its turn or the limit is reached

Prompt lengths are rounded up to powers of two, so that few shapes are compiled.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.loader import Loaded, stack
from ivx.models.decoder import Cache
from ivx.models.definition import ModelDefinition, Params

_SMALLEST = 64


class Prefilled(NamedTuple):
    """The cache after the prompts, [L, B, S, ...], and the next token's scores, float32 [B, V]."""

    cache: Cache
    logits: Float[Array, "b v"]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts as a batch of one-sample packs.

    Attributes:
      batch: the packs.
      lengths: int32 [B], tokens of each.
      next_positions: int32 [B], the position of the first generated token.
    """

    batch: Batch
    lengths: np.ndarray
    next_positions: np.ndarray


class Sampler:
    """Generates answers with fixed parameters.

    Args:
      definition: the model.
      params: its parameters.
      end: id of the token that ends an answer.
    """

    def __init__(self, definition: ModelDefinition, params: Params, end: int):
        self._definition, self._params, self._end = definition, params, end
        self._prefill = jax.jit(functools.partial(prefill, definition), static_argnames="capacity")
        self._decode = jax.jit(functools.partial(decode, definition, end), static_argnames="limit")

    def generate(
        self, layouts: Sequence[Layout], pixels: Sequence[tuple], limit: int
    ) -> list[list[int]]:
        """Answers each prompt with at most `limit` tokens, the closing one left out.

        Args:
          layouts: prompts that end with an open assistant turn.
          pixels: for each, what `Layout.read_patches` gave.
          limit: tokens an answer may have.
        """
        prompts = batch_prompts(layouts, pixels)
        capacity = prompts.batch.tokens.shape[1] + limit
        filled = self._prefill(self._params, prompts.batch, prompts.lengths, capacity=capacity)
        tokens = self._decode(
            self._params, filled, prompts.lengths, prompts.next_positions, limit=limit
        )
        return [_until(row, self._end) for row in np.asarray(tokens)]


def prefill(
    definition: ModelDefinition,
    params: Params,
    batch: Batch,
    lengths_b: Int[Array, " b"],
    capacity: int,
) -> Prefilled:
    """Runs prompts and keeps caches with room for `capacity` tokens."""
    model = definition.bind(params)
    output = model(batch, keep_cache=True)
    last_bd = jnp.take_along_axis(output.hidden, (lengths_b - 1)[:, None, None], 1)[:, 0]
    room = capacity - batch.tokens.shape[1]
    grown = jax.tree.map(
        lambda a: jnp.pad(a, [(0, 0), (0, 0), (0, room)] + [(0, 0)] * (a.ndim - 3)), output.cache
    )
    return Prefilled(grown, model.logits(last_bd))


def decode(
    definition: ModelDefinition,
    end: int,
    params: Params,
    filled: Prefilled,
    lengths_b: Int[Array, " b"],
    positions_b: Int[Array, " b"],
    limit: int,
) -> Int[Array, "b n"]:
    """Greedy tokens [B, limit]; rows that have ended are filled with `end`."""
    model = definition.bind(params)
    first_b = jnp.argmax(filled.logits, -1).astype(jnp.int32)
    tokens_bn = jnp.full((first_b.shape[0], limit), end, jnp.int32).at[:, 0].set(first_b)

    def going_on(carry) -> Array:
        tokens, _, number = carry
        return (number < limit) & jnp.any(tokens[:, number - 1] != end)

    def advance(carry):
        tokens, cache, number = carry
        last_b = tokens[:, number - 1]
        output = model.decode(last_b, positions_b + number - 1, cache, lengths_b + number - 1)
        next_b = jnp.argmax(model.logits(output.hidden[:, 0]), -1).astype(jnp.int32)
        return (
            tokens.at[:, number].set(jnp.where(last_b == end, end, next_b)),
            output.cache,
            number + 1,
        )

    tokens_bn, _, _ = jax.lax.while_loop(going_on, advance, (tokens_bn, filled.cache, 1))
    return tokens_bn


def batch_prompts(layouts: Sequence[Layout], pixels: Sequence[tuple]) -> Prompts:
    """Lays each prompt into a pack of its own, all of one size."""
    lengths = [len(layout.tokens) for layout in layouts]
    shape = prompt_shape(layouts)
    packs = [
        Loaded(packing.assemble([layout], [rows], shape), ())
        for layout, rows in zip(layouts, pixels, strict=True)
    ]
    next_positions = [int(layout.positions[:, -1].max()) + 1 for layout in layouts]
    return Prompts(
        stack(packs).batch, np.array(lengths, np.int32), np.array(next_positions, np.int32)
    )


def prompt_shape(layouts: Sequence[Layout]) -> packing.PackShape:
    """The smallest of few shapes that holds each of the prompts by itself."""
    longest = max((size for layout in layouts for size in layout.slice_sizes), default=1)
    block = max(_SMALLEST, _power_of_two(longest))
    rows = max(packing.place_slices(layout.slice_sizes, 0, block)[1] for layout in layouts)
    tokens = max(_SMALLEST, _power_of_two(max(len(layout.tokens) for layout in layouts)))
    return packing.PackShape(tokens, block * _power_of_two(-(-rows // block)), block)


def run_in_batches(
    generate: Callable[[list[int]], None],
    layouts: Sequence[Layout],
    batch_size: int,
) -> None:
    """Calls `generate` on prompts of one shape by index, at most `batch_size`, short ones first."""
    shapes = {}
    for index, layout in enumerate(layouts):
        shape = prompt_shape([layout])
        shapes.setdefault((shape.tokens, shape.patches, shape.slice_block), []).append(index)
    for _, indices in sorted(shapes.items()):
        for first in range(0, len(indices), batch_size):
            generate(indices[first : first + batch_size])


def _power_of_two(length: int) -> int:
    """The smallest power of two that is not below `length`."""
    return 1 << max(length - 1, 0).bit_length()


def _until(row: np.ndarray, end: int) -> list[int]:
    stops = np.flatnonzero(row == end)
    return row[: stops[0]].tolist() if len(stops) else row.tolist()
