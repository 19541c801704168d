"""Decoding of a batch of prompts, greedy or sampled, with the model's own cache (latent for M2LA).

    prefill:  the prompts side by side, one a row, padded on the right; every layer's cache is kept
    decode:   one token a step for all rows, until each has ended its turn or the limit is reached

Prompt lengths are rounded up to powers of two, so that few shapes are compiled. Prefill scans over
the stacked layers, as training does; decoding has arrays of its own for each layer, cut from the
stack once (see `Decoder.unstack`): a second copy of the decoder, in the dtype of computation.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.loader import Loaded, stack
from ivx.errors import UserError
from ivx.kernels.latent_decode.quantise import DTYPES, quantise
from ivx.models.decoder import Cache
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import ambient, over_hosts, rules
from ivx.parallel.shares import pack_share

_SMALLEST = 64
# Room in caches comes in runs of so many tokens, of which TPU kernels make their blocks.
_PAGE = 128


class Prefilled(NamedTuple):
    """The cache of each layer after the prompts, and the next token's scores, float32 [B, V]."""

    caches: tuple[Cache, ...]
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """What was generated.

    Attributes:
      tokens: int32 [B, n]; rows that have ended are filled with the closing token.
      logps: float32 [B, n], the model's log-probability of each, whatever the temperature.
    """

    tokens: Int[Array, "b n"]
    logps: Float[Array, "b n"]


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
        self._unstack = jax.jit(functools.partial(unstack, definition))
        first = functools.partial(prefill, definition, cache=cache)
        rest = functools.partial(decode, definition, end)
        whole = None
        if mesh is not None:
            first, rest = ambient.under(mesh, first), ambient.under(mesh, rest)
            whole = rules.replicated(mesh)
        self._prefill = jax.jit(first, static_argnames=("capacity", "group"))
        self._decode = jax.jit(rest, static_argnames=("temperature", "limit"), out_shardings=whole)

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
        prompts = batch_prompts(layouts, pixels, over_hosts.largest if self._mesh else list)
        capacity = -(-(prompts.batch.tokens.shape[1] + limit) // _PAGE) * _PAGE
        batch, lengths, positions = prompts.batch, prompts.lengths, prompts.next_positions
        if self._mesh is not None:
            batch, lengths, positions = rules.put_batch((batch, lengths, positions), self._mesh)
        if self._layers is None:
            self._layers = self._unstack(self._params)
        filled = self._prefill(self._params, batch, lengths, capacity=capacity, group=group)
        lengths, positions = (jnp.repeat(a, group) for a in (lengths, positions))
        decoded = self._decode(
            self._params,
            self._layers,
            filled,
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


def unstack(definition: ModelDefinition, params: Params) -> tuple[nnx.State, ...]:
    """The decoder's parameters layer by layer, for `decode`."""
    return definition.bind(params).language_model.unstack()


def prefill(
    definition: ModelDefinition,
    params: Params,
    batch: Batch,
    lengths_b: Int[Array, " b"],
    capacity: int,
    group: int = 1,
    cache: str = "compute",
) -> Prefilled:
    """Runs prompts; keeps caches with room for `capacity` tokens, `group` copies of each row.

    `cache` names what they are stored in, as `Sampler` has it.
    """
    model = definition.bind(params)
    output = model(batch, keep_cache=True)
    last_bd = jnp.take_along_axis(output.hidden, (lengths_b - 1)[:, None, None], 1)[:, 0]
    room = capacity - batch.tokens.shape[1]

    def grow(stacked: Array, layer: int) -> Array:
        return jnp.pad(stacked[layer], [(0, 0)] * (stacked.ndim - 3) + [(0, room), (0, 0)])

    def store(layer: int) -> Cache:
        kept = jax.tree.map(lambda a: grow(a, layer), output.cache)
        if DTYPES[cache] is not None:
            kept = quantise(kept.entries, DTYPES[cache])
        return jax.tree.map(lambda a: jnp.repeat(a, group, 0), kept)

    caches = tuple(store(layer) for layer in range(definition.spec.text.depth))
    return Prefilled(caches, jnp.repeat(model.logits(last_bd), group, 0))


def decode(
    definition: ModelDefinition,
    end: int,
    params: Params,
    layers: Sequence[nnx.State],
    filled: Prefilled,
    lengths_b: Int[Array, " b"],
    positions_b: Int[Array, " b"],
    key: Array,
    temperature: float,
    limit: int,
) -> Decoded:
    """Continues every row until it has ended or has `limit` tokens; temperature 0 is greedy.

    The loop stops once all rows have ended. `layers` are those of `unstack`.
    """
    model = definition.bind(params)

    def choose(logits_bv: Array, number: Array) -> tuple[Array, Array]:
        """A token for each row, and its log-probability."""
        if temperature:
            draw = jax.random.fold_in(key, number)
            token_b = jax.random.categorical(draw, logits_bv / temperature)
        else:
            token_b = jnp.argmax(logits_bv, -1)
        logps_bv = jax.nn.log_softmax(logits_bv)
        return token_b.astype(jnp.int32), jnp.take_along_axis(logps_bv, token_b[:, None], 1)[:, 0]

    first_b, logp_b = choose(filled.logits, 0)
    rows = first_b.shape[0]
    start = Decoded(
        jnp.full((rows, limit), end, jnp.int32).at[:, 0].set(first_b),
        jnp.zeros((rows, limit), jnp.float32).at[:, 0].set(logp_b),
    )

    def going_on(carry) -> Array:
        decoded, _, number = carry
        return (number < limit) & jnp.any(decoded.tokens[:, number - 1] != end)

    def advance(carry):
        decoded, caches, number = carry
        last_b = decoded.tokens[:, number - 1]
        place_b1 = (positions_b + number - 1)[:, None]
        output = model.decode(last_b[:, None], place_b1, layers, caches, lengths_b + number - 1)
        token_b, logp_b = choose(model.logits(output.hidden[:, 0]), number)
        ended = last_b == end
        return (
            Decoded(
                decoded.tokens.at[:, number].set(jnp.where(ended, end, token_b)),
                decoded.logps.at[:, number].set(jnp.where(ended, 0.0, logp_b)),
            ),
            output.cache,
            number + 1,
        )

    return jax.lax.while_loop(going_on, advance, (start, filled.caches, 1))[0]


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
