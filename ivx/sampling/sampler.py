"""Batched generation, greedy or sampled, with the model's own cache (latent for M2LA).

Prompt lengths are rounded up to powers of two, so that few shapes are compiled. The compiled
programs are in `ivx.sampling.programs`.
"""

import contextlib
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
from data_pipelines.loader import LoadedBatch, stack
from ivx import progress
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import across_hosts, batches
from ivx.parallel.batches import pack_share
from ivx.sampling import programs

_SMALLEST = 64


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts as a batch of one-sample packs.

    Attributes:
      batch: the packs.
      lengths: int32 [B], tokens of each prompt.
      next_positions: int32 [B], position of the first generated token.
    """

    batch: Batch
    lengths: np.ndarray
    next_positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answer:
    """One generated answer: `tokens` up to and including the end token, if any, and `logps`."""

    tokens: list[int]
    logps: np.ndarray


class Sampler:
    """Generates answers with fixed parameters.

    Args:
      definition: the model.
      params: its parameters.
      end: id of the end token.
      mesh: devices that prompts are sharded over, possibly on several hosts; None uses the default
        device.
      cache: cache dtype, a name of `quantise.DTYPES`. All except `compute` change the results.

    Raises:
      UserError: the model's attention does not support this cache.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        params: Params,
        end: int,
        mesh: Mesh | None = None,
        cache: str = "compute",
    ) -> None:
        if cache != "compute" and definition.spec.text.attention == "gqa":
            raise UserError(
                f"cache {cache} requires latent attention, but this model has"
                f" {definition.spec.text.attention}; use cache compute"
            )
        self._params, self._end, self._mesh = params, end, mesh
        self._layers = None
        self._compiled: set[tuple] = set()
        self._unstack = programs.unstacked(definition, mesh)
        self._prefill = programs.jit_prefill(definition, mesh, cache)
        self._decode = programs.jit_decode(definition, end, mesh)

    def at(self, params: Params) -> "Sampler":
        """The same sampler with other parameters; reuses the compiled programs."""
        other = copy.copy(self)
        other._params, other._layers = params, None
        return other

    def generate(
        self, layouts: Sequence[Layout], pixels: Sequence[tuple], limit: int
    ) -> list[list[int]]:
        """Answers each prompt greedily; the end token is removed.

        Args:
          layouts: prompts that end with an open assistant turn.
          pixels: the result of `Layout.read_patches` for each prompt.
          limit: maximum tokens per answer.
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
        """Samples `group` answers per prompt; the answers to a prompt are adjacent.

        Hosts that share a mesh must call this together, each with the same number of its own
        prompts, and get the answers to these. Hosts that hold the same rows pass the same prompts.

        Args:
          layouts: prompts that end with an open assistant turn.
          pixels: the result of `Layout.read_patches` for each prompt.
          limit: maximum tokens per answer, including the end token.
          group: answers per prompt; the prompt is prefilled once.
          temperature: 0 is greedy.
          key: random key.
        """
        count = len(layouts)
        if self._mesh is not None:
            # Padded with copies of the last prompt; their answers are dropped.
            extra = -count % len(pack_share(self._mesh).positions)
            layouts = [*layouts, *[layouts[-1]] * extra]
            pixels = [*pixels, *[pixels[-1]] * extra]
        prompts = batch_prompts(
            layouts, pixels, across_hosts.largest if self._mesh is not None else list
        )
        capacity = programs.room(prompts.batch.tokens.shape[1], limit)
        batch, lengths, positions = prompts.batch, prompts.lengths, prompts.next_positions
        if self._mesh is not None:
            batch, lengths, positions = batches.put_batch((batch, lengths, positions), self._mesh)
        if self._layers is None:
            self._layers = self._unstack(self._params)
        with self._compiling((batch.tokens.shape, batch.patches.shape, group, limit)):
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
            tokens, logps = (batches.local_rows(array, self._mesh) for array in (tokens, logps))
        lengths = [_length(row, self._end) for row in tokens]
        return [
            Answer(row[:length].tolist(), logp[:length])
            for row, logp, length in zip(tokens, logps, lengths, strict=True)
        ][: count * group]

    def _compiling(self, sizes: tuple) -> contextlib.AbstractContextManager:
        """Shows the wait for the first batch of these sizes."""
        if sizes in self._compiled:
            return contextlib.nullcontext()
        self._compiled.add(sizes)
        return progress.compiling("the model for prompts of this length")


# Maps the sizes that this host needs to the sizes that all hosts use; the identity on one host.
Agree = Callable[[list[int]], list[int]]


def batch_prompts(
    layouts: Sequence[Layout], pixels: Sequence[tuple], agree: Agree = list
) -> Prompts:
    """Puts each prompt into a pack of its own; all packs have one size."""
    lengths = [len(layout.tokens) for layout in layouts]
    shape = prompt_shape(layouts, agree)
    packs = [
        LoadedBatch(packing.assemble([layout], [rows], shape), ())
        for layout, rows in zip(layouts, pixels, strict=True)
    ]
    next_positions = [int(layout.positions[:, -1].max()) + 1 for layout in layouts]
    return Prompts(
        stack(packs).batch, np.array(lengths, np.int32), np.array(next_positions, np.int32)
    )


def prompt_shape(layouts: Sequence[Layout], agree: Agree = list) -> packing.PackShape:
    """The smallest of a few shapes that fits each of the prompts."""
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
    """Calls `generate` with indices of up to `batch_size` prompts of one shape, shortest first."""
    shapes = {}
    for index, layout in enumerate(layouts):
        shape = prompt_shape([layout])
        shapes.setdefault((shape.tokens, shape.patches, shape.slice_block), []).append(index)
    for _, indices in sorted(shapes.items()):
        for first in range(0, len(indices), batch_size):
            generate(indices[first : first + batch_size])


def _power_of_two(length: int) -> int:
    """The smallest power of two that is at least `length`."""
    return 1 << max(length - 1, 0).bit_length()


def _length(row: np.ndarray, end: int) -> int:
    """Number of tokens up to and including the first `end`."""
    stops = np.flatnonzero(row == end)
    return int(stops[0]) + 1 if len(stops) else len(row)
