"""A walk over the vocabulary: what ops on logits h W share, so that [T, V] logits are never whole.

    for each chunk of columns v of W:            gathered along `fsdp` once, [D, v]
        for each chunk of tokens t:              logits z = h_t W_v, float32 [t, v], die here
            forward    state_t = update(state_t, z)
            backward   dh_t += slope(z) W_v^T;   dW_v += h_t^T slope(z)

Columns are the outer loop, so that a head that is spread over devices is gathered a chunk at a
time, and its gradient is summed in float32 and scattered likewise. Only the first `count` tokens
are walked over: callers bring those that are scored to the front (`Tokens`).

The last chunk of columns ends with the vocabulary and so begins within the one before. It is walked
first, and what it has of that one is masked, and written over later. 151,936 columns make 19 chunks
of 8,064: 0.8% are seen twice.

Shapes: hidden_td, head_dv, logits_tv, state and rows [T].
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from ivx.kernels.masking import MASKED
from ivx.parallel import ambient, zigzag
from ivx.parallel.rules import BATCH

# Logits that are alive, 64 MiB in float32. XLA's estimate of a chunk's four products and what is
# around them is 179 cycles for 1,000 logits (v5p, D = 4096); 186 for 4096 x 4224.
ROWS, COLUMNS = 2048, 8192
# Chunks are multiples of these (a TPU's tiles), unless one chunk holds everything.
_ROW_TILE, _COLUMN_TILE = 8, 128
# Where only some tokens are scored, chunks of an eighth of them, if they are no smaller than this:
# chunks behind the last token that is scored are not walked.
_EIGHTH, FEWEST_ROWS = 8, 256


def chunk_sizes(tokens: int, vocab: int) -> tuple[int, int]:
    """Tokens and columns of a chunk where all tokens of a device are scored."""
    return _chunk(tokens, ROWS, _ROW_TILE), _chunk(vocab, COLUMNS, _COLUMN_TILE)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where hidden states and heads lie on the ambient mesh.

    Attributes:
      mesh: None on one device.
      tokens: mesh axes of each leading axis of the tokens.
      vocab: mesh axis over which vocabularies are spread, or None.
    """

    mesh: jax.sharding.AbstractMesh | None
    tokens: tuple[tuple[str, ...], ...]
    vocab: str | None

    @classmethod
    def around(cls, leading: tuple[int, ...], vocab: int) -> "Placement":
        """That of the ambient mesh: packs over replica and fsdp, their tokens over context."""
        mesh = zigzag.current_mesh()
        if mesh is None:
            return cls(None, ((),) * len(leading), None)
        wanted = (BATCH, ("context",), *(() for _ in leading[2:]))
        tokens = tuple(
            ambient.dividing(size, axes, mesh) for size, axes in zip(leading, wanted, strict=False)
        )
        return cls(mesh, tokens, *(ambient.dividing(vocab, ("tensor",), mesh) or (None,)))

    @property
    def token_axes(self) -> tuple[str, ...]:
        """All mesh axes over which tokens are spread."""
        return sum(self.tokens, ())

    def gather(self, head: jax.ShapeDtypeStruct) -> str | None:
        """The mesh axis over which the rows of a head are spread, or None."""
        if self.mesh is None:
            return None
        return (*ambient.dividing(head.shape[0], ("fsdp",), self.mesh), None)[0]

    def map(self, function: Callable, arguments: str, results: str, *arrays: Array):
        """Runs `function` on each device's part of `arrays`.

        Args:
          function: of the arrays; gives a tuple.
          arguments: a letter an array: t for one number a token, d for hidden states, h for a head.
            An array may be None.
          results: likewise, of the tuple; a head is the gradient of the first head given.
          *arrays: what it is given.
        """
        if self.mesh is None:
            return function(*arrays)
        heads = [a for a, kind in zip(arrays, arguments, strict=True) if kind == "h"]

        def spec(kind: str, head: Array) -> PartitionSpec:
            if kind == "h":
                return PartitionSpec(self.gather(head), self.vocab)
            return PartitionSpec(*(axes or None for axes in self.tokens))

        ins = tuple(spec(kind, a) for kind, a in zip(arguments, arrays, strict=True))
        outs = tuple(spec(kind, heads[0]) for kind in results)
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False
        )
        return mapped(*arrays)

    def sum_over_vocabulary(self, array: Array) -> Array:
        """The sum of what the shards of a vocabulary found."""
        return jax.lax.psum(array, self.vocab) if self.vocab else array

    def sum_over_tokens(self, array: Array, gather: str | None) -> Array:
        """The sum of what all tokens say of a chunk of a head, [D, v]: this device's rows of it."""
        others = tuple(axis for axis in self.token_axes if axis != gather)
        array = jax.lax.psum(array, others) if others else array
        if gather is None:
            return array
        if gather in self.token_axes:
            return jax.lax.psum_scatter(array, gather, tiled=True)
        rows = array.shape[0] // self.mesh.shape[gather]
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(gather) * rows, rows)

    def max_over_vocabulary(self, array: Array) -> Array:
        """The largest of what the shards of a vocabulary found."""
        return jax.lax.pmax(array, self.vocab) if self.vocab else array


@dataclasses.dataclass(frozen=True)
class Linear:
    """One device's part of a model's end: logits = scale * hidden head.

    Attributes:
      hidden: [T, D], of this device's tokens.
      head: [D or a part of it, V or a part of it].
      gather: mesh axis over which the rows of the head are spread, or None.
      scale: of the logits.
    """

    hidden: Array
    head: Array
    gather: str | None = None
    scale: float = 1.0

    def columns(self, start: Array, size: int) -> Float[Array, "d v"]:
        """`size` columns of the head, with all their rows."""
        slab = jax.lax.dynamic_slice_in_dim(self.head, start, size, 1)
        return jax.lax.all_gather(slab, self.gather, tiled=True) if self.gather else slab


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a device in the order in which they are walked: those that are scored, first.

    Attributes:
      size: how many there are.
      chunk: how many are walked at a time.
      order: their places before, or None if all are scored.
      count: how many are scored.
    """

    size: int
    chunk: int
    order: Array | None
    count: Array | int

    @classmethod
    def of(cls, scored: Bool[Array, "..."] | None, size: int) -> "Tokens":
        """All tokens, or those that are `scored`."""
        if scored is None:
            return cls(size, _chunk(size, ROWS, _ROW_TILE), None, size)
        rows = min(ROWS, max(FEWEST_ROWS, size // _EIGHTH))
        order = jnp.argsort(~scored.reshape(-1), stable=True)
        return cls(size, _chunk(size, rows, _ROW_TILE), order, scored.sum())

    @property
    def chunks(self) -> Array | int:
        """How many chunks hold a token that is scored."""
        whole = -(-self.size // self.chunk)
        return whole if self.order is None else (self.count + self.chunk - 1) // self.chunk

    def bring(self, array: Array, leading: int) -> Array:
        """From `leading` axes of tokens to one in the order walked, padded to whole chunks."""
        array = array.reshape(-1, *array.shape[leading:])
        if self.order is not None:
            array = array[self.order]
        padding = -self.size % self.chunk
        return jnp.pad(array, ((0, padding), *((0, 0) for _ in array.shape[1:])))

    def take_back(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `bring`: as the tokens lay, with leading axes of `shape`."""
        array = array[: self.size]
        if self.order is not None:
            array = jnp.zeros_like(array).at[self.order].set(array, unique_indices=True)
        return array.reshape(*shape, *array.shape[1:])


def fold(update: Callable, state, rows, models: tuple[Linear, ...], tokens: Tokens, first=0):
    """Takes a state of each token through all logits of the device.

    Args:
      update: from (state_t, rows_t, logits_tv of each model, numbers_v of the columns) to state_t.
      state: arrays of the tokens, in the order walked.
      rows: what else is known of them.
      models: all of one vocabulary.
      tokens: how they are walked.
      first: number of the device's first column.
    """

    def columns(state, chunk):
        part = _Columns.of(chunk, models, first)

        def some(number, state):
            at = number * tokens.chunk
            old = jax.tree.map(lambda a: _part(a, at, tokens.chunk), state)
            here = jax.tree.map(lambda a: _part(a, at, tokens.chunk), rows)
            logits = [part.logits(i, at, tokens.chunk) for i in range(len(models))]
            new = update(old, here, logits, part.numbers)
            return jax.tree.map(
                lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, at, 0), state, new
            )

        return jax.lax.fori_loop(0, tokens.chunks, some, state), None

    return jax.lax.scan(columns, state, _column_chunks(models[0].head.shape[1]))[0]


def pull_back(
    slope: Callable,
    rows,
    models: tuple[Linear, ...],
    tokens: Tokens,
    reduce: Callable[[Array], Array],
    first=0,
) -> tuple[Float[Array, "t d"], Float[Array, "d v"]]:
    """Gradient of the first model's hidden states (float32, of these columns) and of its head.

    Args:
      slope: from (rows_t, logits_tv of each model, numbers_v) to the gradient of the first logits.
      rows: what is known of the tokens, in the order walked.
      models: all of one vocabulary.
      tokens: how they are walked.
      reduce: from a chunk's gradient, [D, v] of the device's tokens, to its part of the whole.
      first: number of the device's first column.
    """
    model = models[0]
    exact = _accumulator(model)

    def columns(sums, chunk):
        d_hidden, d_head = sums
        part = _Columns.of(chunk, models, first)

        def some(number, sums):
            d_hidden, d_slab = sums
            at = number * tokens.chunk
            here = jax.tree.map(lambda a: _part(a, at, tokens.chunk), rows)
            logits = [part.logits(i, at, tokens.chunk) for i in range(len(models))]
            dz_tv = jnp.where(part.fresh, slope(here, logits, part.numbers), 0) * model.scale
            dz_tv = dz_tv.astype(jnp.promote_types(model.hidden.dtype, model.head.dtype))
            product = lambda *a: jnp.einsum(*a, preferred_element_type=exact)  # noqa: E731
            d_rows = product("tv,dv->td", dz_tv, part.slabs[0])
            d_hidden = jax.lax.dynamic_update_slice_in_dim(
                d_hidden, _part(d_hidden, at, tokens.chunk) + d_rows, at, 0
            )
            return d_hidden, d_slab + product(
                "td,tv->dv", _part(model.hidden, at, tokens.chunk), dz_tv
            )

        empty = jnp.zeros(part.slabs[0].shape, exact)
        d_hidden, d_slab = jax.lax.fori_loop(0, tokens.chunks, some, (d_hidden, empty))
        d_slab = reduce(d_slab).astype(d_head.dtype)
        return (
            d_hidden,
            jax.lax.dynamic_update_slice_in_dim(d_head, d_slab, chunk["start"], 1),
        ), None

    # Every column is written, so that nothing needs to be there before.
    sums = jnp.zeros(model.hidden.shape, exact), jax.lax.empty(model.head.shape, model.head.dtype)
    return jax.lax.scan(columns, sums, _column_chunks(model.head.shape[1]))[0]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """A chunk of columns: of each model a slab, which columns are new, and their numbers."""

    models: tuple[Linear, ...]
    slabs: tuple[Array, ...]
    fresh: Bool[Array, " v"]
    numbers: Array

    @classmethod
    def of(cls, chunk: dict[str, Array], models: tuple[Linear, ...], first) -> "_Columns":
        size = _chunk(models[0].head.shape[1], COLUMNS, _COLUMN_TILE)
        own = chunk["start"] + jnp.arange(size)
        slabs = tuple(model.columns(chunk["start"], size) for model in models)
        return cls(models, slabs, own >= chunk["new"], first + own)

    def logits(self, number: int, at, size: int) -> Float[Array, "t v"]:
        model = self.models[number]
        logits_tv = jnp.einsum(
            "td,dv->tv",
            _part(model.hidden, at, size),
            self.slabs[number],
            preferred_element_type=_accumulator(model),
        )
        return jnp.where(self.fresh, logits_tv * model.scale, MASKED)


def _column_chunks(columns: int) -> dict[str, np.ndarray]:
    """Where chunks start, and their first column that no other chunk has; the last one first."""
    size = _chunk(columns, COLUMNS, _COLUMN_TILE)
    new = np.roll(np.arange(-(-columns // size), dtype=np.int32) * size, 1)
    return {"start": np.minimum(new, columns - size), "new": new}


def _chunk(size: int, most: int, tile: int) -> int:
    """Chunks of about equal size, at most `most`, that waste little."""
    chunks = -(-size // most)
    return size if chunks <= 1 else math.ceil(size / chunks / tile) * tile


def _part(array: Array, at, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, at, size, 0)


def _accumulator(model: Linear) -> jnp.dtype:
    """Float32, or what is more exact."""
    return jnp.promote_types(jnp.float32, jnp.promote_types(model.hidden.dtype, model.head.dtype))
