"""Blockwise iteration over the vocabulary, for losses on logits h W without a [T, V] array.

    for each chunk of columns v of W:            all-gathered along `fsdp` once, [D, v]
        for each chunk of tokens t:              logits z = h_t W_v, float32 [t, v], die here
            forward    state_t = update(state_t, z)
            backward   dh_t += dz W_v^T;   dW_v += h_t^T dz

Columns are the outer loop, so a sharded head is gathered one chunk at a time, and its gradient is
accumulated in float32 and reduce-scattered one chunk at a time. Only the first `count` tokens are
visited: `TokenOrder` moves the scored tokens to the front.

The last chunk of columns ends at the end of the vocabulary, so it overlaps the chunk before it. It
is visited first, its overlap is masked, and the overlap is overwritten later. 151,936 columns make
19 chunks of 8,064; 0.8% of the columns are computed twice.

Shapes: hidden_td, head_dv, logits_tv, state and rows [T].
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ivx.kernels.masking import MASKED

# Size of the live logits: 64 MiB in float32. By XLA's estimate, the four products of a chunk and
# the surrounding code take 179 cycles per 1,000 logits (v5p, D = 4096); 186 for 4096 x 4224.
ROWS, COLUMNS = 2048, 8192
# Chunk sizes are multiples of the TPU tile, unless a single chunk holds everything.
_ROW_TILE, _COLUMN_TILE = 8, 128
# If only some tokens are scored, a chunk is an eighth of the tokens but at least FEWEST_ROWS.
# Chunks after the last scored token are skipped.
_EIGHTH, FEWEST_ROWS = 8, 256


def chunk_sizes(tokens: int, vocab: int) -> tuple[int, int]:
    """(tokens, columns) of a chunk if all tokens of a device are scored."""
    return _chunk(tokens, ROWS, _ROW_TILE), _chunk(vocab, COLUMNS, _COLUMN_TILE)


@dataclasses.dataclass(frozen=True)
class OutputLayer:
    """One device's shard of a model's output layer: logits = scale * hidden head.

    Attributes:
      hidden: [T, D], this device's tokens.
      head: [D, V], or this device's shard of it.
      gather: mesh axis that shards the rows of the head, or None.
      scale: factor of the logits.
    """

    hidden: Array
    head: Array
    gather: str | None = None
    scale: float = 1.0

    def columns(self, start: Array, size: int) -> Float[Array, "d v"]:
        """`size` columns of the head with all D rows."""
        slab = jax.lax.dynamic_slice_in_dim(self.head, start, size, 1)
        return jax.lax.all_gather(slab, self.gather, tiled=True) if self.gather else slab


@dataclasses.dataclass(frozen=True)
class TokenOrder:
    """The order in which a device visits its tokens: scored tokens first.

    Attributes:
      size: number of tokens.
      chunk: tokens per chunk.
      order: original index of each visited token; None if all are scored.
      count: number of scored tokens.
    """

    size: int
    chunk: int
    order: Array | None
    count: Array | int

    @classmethod
    def scored_first(cls, scored: Bool[Array, "..."] | None, size: int) -> "TokenOrder":
        """The order for a mask of scored tokens; None means that all tokens are scored."""
        if scored is None:
            return cls(size, _chunk(size, ROWS, _ROW_TILE), None, size)
        rows = min(ROWS, max(FEWEST_ROWS, size // _EIGHTH))
        order = jnp.argsort(~scored.reshape(-1), stable=True)
        return cls(size, _chunk(size, rows, _ROW_TILE), order, scored.sum())

    @property
    def chunks(self) -> Array | int:
        """Number of chunks that contain a scored token."""
        total = -(-self.size // self.chunk)
        return total if self.order is None else (self.count + self.chunk - 1) // self.chunk

    def reorder(self, array: Array, leading: int) -> Array:
        """Flattens `leading` token axes into one in visiting order, padded to full chunks."""
        array = array.reshape(-1, *array.shape[leading:])
        if self.order is not None:
            array = array[self.order]
        padding = -self.size % self.chunk
        return jnp.pad(array, ((0, padding), *((0, 0) for _ in array.shape[1:])))

    def restore(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Inverse of `reorder`: the original order with leading axes of `shape`."""
        array = array[: self.size]
        if self.order is not None:
            array = jnp.zeros_like(array).at[self.order].set(array, unique_indices=True)
        return array.reshape(*shape, *array.shape[1:])


def fold(
    update: Callable,
    state: Any,
    rows: Any,
    layers: tuple[OutputLayer, ...],
    tokens: TokenOrder,
    first: Array | int = 0,
) -> Any:
    """Folds a per-token state over all logits of the device.

    Args:
      update: maps (state_t, rows_t, logits_tv of each layer, column ids [v]) to state_t.
      state: pytree of per-token arrays in visiting order.
      rows: pytree of further per-token arrays in visiting order.
      layers: output layers with one vocabulary.
      tokens: the visiting order.
      first: id of the device's first column.
    """

    def visit_columns(state: Any, bounds: dict[str, Array]) -> tuple[Any, None]:
        columns = _Columns.load(bounds, layers, first)

        def visit_tokens(index: Array, state: Any) -> Any:
            begin = index * tokens.chunk
            old = jax.tree.map(lambda a: _chunk_at(a, begin, tokens.chunk), state)
            chunk_rows = jax.tree.map(lambda a: _chunk_at(a, begin, tokens.chunk), rows)
            logits = [columns.logits(i, begin, tokens.chunk) for i in range(len(layers))]
            new = update(old, chunk_rows, logits, columns.ids)
            return jax.tree.map(
                lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, begin, 0), state, new
            )

        return jax.lax.fori_loop(0, tokens.chunks, visit_tokens, state), None

    return jax.lax.scan(visit_columns, state, _column_chunks(layers[0].head.shape[1]))[0]


def backpropagate(
    logit_gradient: Callable,
    rows: Any,
    layers: tuple[OutputLayer, ...],
    tokens: TokenOrder,
    reduce: Callable[[Array], Array],
    first: Array | int = 0,
) -> tuple[Float[Array, "t d"], Float[Array, "r v"]]:
    """Gradients of the first layer's hidden states (float32, device's columns only) and head.

    Args:
      logit_gradient: maps (rows_t, logits_tv of each layer, column ids [v]) to the gradient of the
        first layer's logits.
      rows: pytree of per-token arrays in visiting order.
      layers: output layers with one vocabulary.
      tokens: the visiting order.
      reduce: maps the gradient of a chunk [D, v] over the device's tokens to the device's shard of
        the full gradient.
      first: id of the device's first column.
    """
    layer = layers[0]
    accumulator = _accumulator(layer)

    def visit_columns(
        gradients: tuple[Array, Array], bounds: dict[str, Array]
    ) -> tuple[tuple[Array, Array], None]:
        d_hidden, d_head = gradients
        columns = _Columns.load(bounds, layers, first)

        def visit_tokens(index: Array, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
            d_hidden, d_slab = gradients
            begin = index * tokens.chunk
            chunk_rows = jax.tree.map(lambda a: _chunk_at(a, begin, tokens.chunk), rows)
            logits = [columns.logits(i, begin, tokens.chunk) for i in range(len(layers))]
            dz_tv = (
                jnp.where(columns.fresh, logit_gradient(chunk_rows, logits, columns.ids), 0)
                * layer.scale
            )
            dz_tv = dz_tv.astype(jnp.promote_types(layer.hidden.dtype, layer.head.dtype))
            product = lambda *a: jnp.einsum(*a, preferred_element_type=accumulator)  # noqa: E731
            d_rows = product("tv,dv->td", dz_tv, columns.slabs[0])
            d_hidden = jax.lax.dynamic_update_slice_in_dim(
                d_hidden, _chunk_at(d_hidden, begin, tokens.chunk) + d_rows, begin, 0
            )
            return d_hidden, d_slab + product(
                "td,tv->dv", _chunk_at(layer.hidden, begin, tokens.chunk), dz_tv
            )

        zeros = jnp.zeros(columns.slabs[0].shape, accumulator)
        d_hidden, d_slab = jax.lax.fori_loop(0, tokens.chunks, visit_tokens, (d_hidden, zeros))
        d_slab = reduce(d_slab).astype(d_head.dtype)
        return (
            d_hidden,
            jax.lax.dynamic_update_slice_in_dim(d_head, d_slab, bounds["start"], 1),
        ), None

    # Every column of d_head is written, so it needs no initial value.
    gradients = (
        jnp.zeros(layer.hidden.shape, accumulator),
        jax.lax.empty(layer.head.shape, layer.head.dtype),
    )
    return jax.lax.scan(visit_columns, gradients, _column_chunks(layer.head.shape[1]))[0]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """A chunk of columns: a slab of each head, a mask of the new columns, and the column ids."""

    layers: tuple[OutputLayer, ...]
    slabs: tuple[Array, ...]
    fresh: Bool[Array, " v"]
    ids: Array

    @classmethod
    def load(
        cls, bounds: dict[str, Array], layers: tuple[OutputLayer, ...], first: Array | int
    ) -> "_Columns":
        size = _chunk(layers[0].head.shape[1], COLUMNS, _COLUMN_TILE)
        local = bounds["start"] + jnp.arange(size)
        slabs = tuple(layer.columns(bounds["start"], size) for layer in layers)
        return cls(layers, slabs, local >= bounds["new"], first + local)

    def logits(self, index: int, begin: Array, size: int) -> Float[Array, "t v"]:
        layer = self.layers[index]
        logits_tv = jnp.einsum(
            "td,dv->tv",
            _chunk_at(layer.hidden, begin, size),
            self.slabs[index],
            preferred_element_type=_accumulator(layer),
        )
        return jnp.where(self.fresh, logits_tv * layer.scale, MASKED)


def _column_chunks(columns: int) -> dict[str, np.ndarray]:
    """Start of each chunk and its first column outside all other chunks; the last chunk first."""
    size = _chunk(columns, COLUMNS, _COLUMN_TILE)
    new = np.roll(np.arange(-(-columns // size), dtype=np.int32) * size, 1)
    return {"start": np.minimum(new, columns - size), "new": new}


def _chunk(size: int, most: int, tile: int) -> int:
    """A chunk size of at most `most` that splits `size` into nearly equal chunks."""
    chunks = -(-size // most)
    return size if chunks <= 1 else math.ceil(size / chunks / tile) * tile


def _chunk_at(array: Array, begin: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, begin, size, 0)


def _accumulator(layer: OutputLayer) -> jnp.dtype:
    """float32, or float64 for float64 inputs."""
    return jnp.promote_types(jnp.float32, jnp.promote_types(layer.hidden.dtype, layer.head.dtype))
