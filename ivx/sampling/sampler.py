"""Decoding of a batch of prompts, greedy or sampled, with the model's own cache (latent for M2LA).

Prompt lengths are rounded up to powers of two, so that few shapes are compiled. What is run stands
in `ivx.sampling.programs`.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.loader import Loaded, stack
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import over_hosts, rules
from ivx.parallel.shares import pack_share
from ivx.sampling import programs

_SMALLEST = 64


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


@dataclasses.dataclass(frozen=True)
class Answer:
    """One generated answer: `tokens` up to and with the closing one, if it came, and `logps`."""

    tokens: list[int]
    logps: np.ndarray


class Sampler:
    """Generates answers with fixed parameters.

    Args:
      definition: the model.
      params: its parameters.
      end: id of the token that ends an answer.
      mesh: devices over which prompts are spread, those of several hosts maybe; None leaves them
        on the default device.
      cache: what caches are stored in, a name of `quantise.DTYPES`; other than `compute` it
        changes the mathematics.

    Raises:
      UserError: the model's attention has no such cache.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        params: Params,
        end: int,
        mesh: Mesh | None = None,
        cache: str = "compute",
    ):
        if cache != "compute" and definition.spec.text.attention == "gqa":
            raise UserError(
                f"a cache of {cache} is made for latent attention; this model has"
                f" {definition.spec.text.attention}, so ask for a cache of compute"
            )
        self._params, self._end, self._mesh = params, end, mesh
        self._layers = None
        self._unstack = programs.jit_unstack(definition, mesh)
        self._prefill = programs.jit_prefill(definition, mesh, cache)
        self._decode = programs.jit_decode(definition, end, mesh)

    def at(self, params: Params) -> "Sampler":
        """The same sampler with other parameters; nothing is compiled again."""
        other = copy.copy(self)
        other._params, other._layers = params, None
        return other

    def generate(
        self, layouts: Sequence[Layout], pixels: Sequence[tuple], limit: int
    ) -> list[list[int]]:
        """Answers each prompt greedily with at most `limit` tokens, the closing one left out.

        Args:
          layouts: prompts that end with an open assistant turn.
          pixels: for each, what `Layout.read_patches` gave.
          limit: tokens an answer may have.
        """
        answers = self.sample(layouts, pixels, limit, 1, 0.0, jax.random.key(0))
        return [[token for token in answer.tokens if token != self._end] for answer in answers]

    def sample(
        self,
        layouts: Sequence[Layout],
        pixels: Sequence[tuple],
        limit: int,
        group: int,
        temperature: float,
        key: Array,
    ) -> list[Answer]:
        """Draws `group` answers to each prompt, those of the first prompt first.

        Hosts that share a mesh call this together, each with as many prompts of its own, and get
        the answers to these; hosts that hold the same rows give the same prompts.

        Args:
          layouts: prompts that end with an open assistant turn.
          pixels: for each, what `Layout.read_patches` gave.
          limit: tokens an answer may have, the closing one among them.
          group: answers to each prompt, which is run but once.
          temperature: 0 takes the likeliest token.
          key: of the random draws.
        """
        count = len(layouts)
        if self._mesh is not None:
            # Copies of the last prompt fill the devices up; their answers are dropped.
            extra = -count % len(pack_share(self._mesh).places)
            layouts = [*layouts, *[layouts[-1]] * extra]
            pixels = [*pixels, *[pixels[-1]] * extra]
        prompts = batch_prompts(
            layouts, pixels, over_hosts.largest if self._mesh is not None else list
        )
        capacity = programs.room(prompts.batch.tokens.shape[1], limit)
        batch, lengths, positions = prompts.batch, prompts.lengths, prompts.next_positions
        if self._mesh is not None:
            batch, lengths, positions = rules.put_batch((batch, lengths, positions), self._mesh)
        if self._layers is None:
            self._layers = self._unstack(self._params)
        filled = self._prefill(self._params, batch, lengths, capacity=capacity, group=group)
        lengths, positions = (jnp.repeat(a, group) for a in (lengths, positions))
        decoded, _ = self._decode(
            self._params,
            self._layers,
            filled.caches,
            filled.logits,
            lengths,
            positions,
            key,
            temperature=temperature,
            limit=limit,
        )
        tokens, logps = np.asarray(decoded.tokens), np.asarray(decoded.logps)
        if self._mesh is not None:
            tokens, logps = (rules.own_rows(array, self._mesh) for array in (tokens, logps))
        lengths = [_length(row, self._end) for row in tokens]
        return [
            Answer(row[:length].tolist(), logp[:length])
            for row, logp, length in zip(tokens, logps, lengths, strict=True)
        ][: count * group]


# From what this host needs to what all hosts of a batch take; a host alone takes what it needs.
Agree = Callable[[list[int]], list[int]]


def batch_prompts(
    layouts: Sequence[Layout], pixels: Sequence[tuple], agree: Agree = list
) -> Prompts:
    """Lays each prompt into a pack of its own, all of one size."""
    lengths = [len(layout.tokens) for layout in layouts]
    shape = prompt_shape(layouts, agree)
    packs = [
        Loaded(packing.assemble([layout], [rows], shape), ())
        for layout, rows in zip(layouts, pixels, strict=True)
    ]
    next_positions = [int(layout.positions[:, -1].max()) + 1 for layout in layouts]
    return Prompts(
        stack(packs).batch, np.array(lengths, np.int32), np.array(next_positions, np.int32)
    )


def prompt_shape(layouts: Sequence[Layout], agree: Agree = list) -> packing.PackShape:
    """The smallest of few shapes that holds each of the prompts by itself."""
    longest = max((size for layout in layouts for size in layout.slice_sizes), default=1)
    [block] = agree([max(_SMALLEST, _power_of_two(longest))])
    rows = max(packing.place_slices(layout.slice_sizes, 0, block)[1] for layout in layouts)
    tokens = max(_SMALLEST, _power_of_two(max(len(layout.tokens) for layout in layouts)))
    tokens, blocks = agree([tokens, _power_of_two(-(-rows // block))])
    return packing.PackShape(tokens, block * blocks, block)


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


def _length(row: np.ndarray, end: int) -> int:
    """Tokens up to and with the first `end`."""
    stops = np.flatnonzero(row == end)
    return int(stops[0]) + 1 if len(stops) else len(row)
