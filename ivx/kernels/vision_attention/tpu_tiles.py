"""What the kernels of vision attention share: their grid, their blocks, and products of tiles."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels.vision_attention import visits

# Rows of a tile. A slice of 1,764 patches (two frames of 672 x 672) meets 8 tiles of 256 in each
# direction, 1.3 times what it needs, and 4.4 of 512, 1.7 times.
TILE = 256
# Heads of a grid step, all of the tower's.
HEADS = 16


@dataclasses.dataclass(frozen=True)
class Steps:
    """A grid of visits for arrays [n, width, r]: heads, numbers of a head, rows.

    A block of an array is a pair (its spec, the array); that of a result (its spec, its shape).
    """

    n: int
    width: int
    r: int
    interpret: object

    @property
    def heads(self) -> int:
        """Heads of a step: all, or whole tiles of 8 rows of [N, R]."""
        if self.n <= HEADS:
            return self.n
        return max((heads for heads in (16, 8) if self.n % heads == 0), default=self.n)

    def patches(self, whose: str, array: jax.Array):
        """A tile of [N, H, R]: of the tile that visits (`own`), or of the one visited (`other`)."""
        return self._block(
            (self.heads, self.width, TILE), whose, lambda h, tile: (h, 0, tile)
        ), array

    def numbers(self, whose: str, array: jax.Array):
        """A tile of [N, R]."""
        return self._block((self.heads, TILE), whose, lambda h, tile: (h, tile)), array

    def slices(self, whose: str, array: jax.Array):
        """The slices of a tile, of [R / TILE, 1, TILE]."""
        return self._block((None, 1, TILE), whose, lambda h, tile: (tile, 0, 0)), array

    def patches_out(self, dtype: jnp.dtype):
        """[N, H, R], written after the last visit of a tile."""
        return self.patches("own", jax.ShapeDtypeStruct((self.n, self.width, self.r), dtype))

    def numbers_out(self):
        """[N, R], float32."""
        return self.numbers("own", jax.ShapeDtypeStruct((self.n, self.r), jnp.float32))

    def run(self, kernel: Callable, name: str, pairs: visits.Visits, given, results, scratch):
        """Runs `kernel` for each group of heads and each visit."""
        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(self.n // self.heads, pairs.count),
            in_specs=[spec for spec, _ in given],
            out_specs=[spec for spec, _ in results],
            scratch_shapes=scratch,
        )
        return pl.pallas_call(
            kernel,
            grid_spec=grid,
            out_shape=[shape for _, shape in results],
            name=name,
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=48 * 2**20
            ),
        )(pairs.pairs, *(array for _, array in given))

    @staticmethod
    def _block(shape: tuple, whose: str, place: Callable) -> pl.BlockSpec:
        tile = {"own": visits.own, "other": visits.other}[whose]
        return pl.BlockSpec(shape, lambda h, visit, pairs: place(h, tile(pairs[visit])))


def borders(pairs) -> tuple[jax.Array, jax.Array]:
    """Whether this visit is the first, and whether it is the last, of the tile that visits."""
    visit = pl.program_id(1)
    own = visits.own(pairs[visit])
    before = visits.own(pairs[jnp.maximum(visit - 1, 0)])
    return (visit == 0) | (own != before), own != visits.own(pairs[visit + 1])


def one_ahead(heads: int, make: Callable) -> Iterator[tuple]:
    """(head, make(head)) for each head, the next one made before this one is used.

    So the compiler has products of one head to overlap with the softmax of another.
    """
    following = make(0)
    for head in range(heads):
        current, following = following, make(head + 1) if head + 1 < heads else None
        yield head, current


def scores(left_ht: jax.Array, right_ht: jax.Array) -> jax.Array:
    """left^T right: products of columns, [left columns, right columns] in float32."""
    return _product(left_ht, right_ht, 0, 0)


def contract_rows(left: jax.Array, right: jax.Array) -> jax.Array:
    """left right^T, float32."""
    return _product(left, right, 1, 1)


def contract(left: jax.Array, right: jax.Array) -> jax.Array:
    """left right, float32."""
    return _product(left, right, 1, 0)


def same_slice(across: jax.Array, down: jax.Array) -> jax.Array:
    """Where a row of `down` and one of `across` are of one slice: bool [down rows, across rows]."""
    column = jnp.broadcast_to(down[...], (128, TILE)).T
    return column[:, :1] == across[...]


def _product(left, right, left_axis, right_axis):
    # Products of float32 in one pass are products of bf16 on a TPU.
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left,
        right,
        (((left_axis,), (right_axis,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
