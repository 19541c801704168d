"""Grid, block specs and tile products that the vision attention kernels share."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ivx.kernels.choice import Interpret
from ivx.kernels.vision_attention import visits

# Rows per tile. A slice of 1,764 patches (two frames of 672 x 672) intersects 8 tiles of 256 in
# each direction, 1.3 times the minimum work; with 512 it is 4.4 tiles and 1.7 times.
TILE = 256
# Heads per grid step: all heads of the tower.
HEADS = 16

Shape = jax.Array | jax.ShapeDtypeStruct
# A block spec, and the array or result shape that it applies to.
Block = tuple[pl.BlockSpec, Shape]


@dataclasses.dataclass(frozen=True)
class Steps:
    """A grid of visits over arrays [n, width, r]: heads, head width, rows.

    The visiting tile (`own`) is stationary while the visited tiles (`other`) iterate.
    """

    n: int
    width: int
    r: int
    interpret: Interpret

    @property
    def heads(self) -> int:
        """Heads per step: all heads, or a multiple of 8, the row tile of [N, R]."""
        if self.n <= HEADS:
            return self.n
        return max((heads for heads in (16, 8) if self.n % heads == 0), default=self.n)

    def patches(self, side: str, array: Shape) -> Block:
        """A tile of [N, H, R]; `side` is "own" (the visiting tile) or "other" (the visited)."""
        return self._spec((self.heads, self.width, TILE), side, lambda h, tile: (h, 0, tile)), array

    def rows(self, side: str, array: Shape) -> Block:
        """A tile of [N, R]."""
        return self._spec((self.heads, TILE), side, lambda h, tile: (h, tile)), array

    def slices(self, side: str, array: Shape) -> Block:
        """The slice ids of a tile, of [R / TILE, 1, TILE]."""
        return self._spec((None, 1, TILE), side, lambda h, tile: (tile, 0, 0)), array

    def patches_out(self, dtype: DTypeLike) -> Block:
        """Result [N, H, R], written after the last visit of a tile."""
        return self.patches("own", jax.ShapeDtypeStruct((self.n, self.width, self.r), dtype))

    def rows_out(self) -> Block:
        """Result [N, R], float32."""
        return self.rows("own", jax.ShapeDtypeStruct((self.n, self.r), jnp.float32))

    def run(
        self,
        kernel: Callable[..., None],
        name: str,
        pairs: visits.Visits,
        inputs: Sequence[Block],
        outputs: Sequence[Block],
        scratch: Sequence[Any],
    ) -> Sequence[jax.Array]:
        """Runs `kernel` for each group of heads and each visit."""
        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(self.n // self.heads, pairs.count),
            in_specs=[spec for spec, _ in inputs],
            out_specs=[spec for spec, _ in outputs],
            scratch_shapes=scratch,
        )
        return pl.pallas_call(
            kernel,
            grid_spec=grid,
            out_shape=[shape for _, shape in outputs],
            name=name,
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=48 * 2**20
            ),
        )(pairs.pairs, *(array for _, array in inputs))

    @staticmethod
    def _spec(shape: tuple, side: str, index: Callable[..., tuple]) -> pl.BlockSpec:
        tile = {"own": visits.visiting_tile, "other": visits.visited_tile}[side]
        return pl.BlockSpec(shape, lambda h, visit, pairs: index(h, tile(pairs[visit])))


def first_and_last(pairs: Any) -> tuple[jax.Array, jax.Array]:
    """Whether this visit is the first, and whether it is the last, of the visiting tile."""
    visit = pl.program_id(1)
    own = visits.visiting_tile(pairs[visit])
    previous = visits.visiting_tile(pairs[jnp.maximum(visit - 1, 0)])
    return (visit == 0) | (own != previous), own != visits.visiting_tile(pairs[visit + 1])


def one_ahead(heads: int, compute: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
    """Yields (head, compute(head)), computing the next head before the current one is used.

    The compiler can then overlap the products of one head with the softmax of another.
    """
    following = compute(0)
    for head in range(heads):
        current, following = following, compute(head + 1) if head + 1 < heads else None
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


def same_slice(across: Any, down: Any) -> jax.Array:
    """Whether rows of `down` and `across` share a slice: bool [down rows, across rows]."""
    column = jnp.broadcast_to(down[...], (128, TILE)).T
    return column[:, :1] == across[...]


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    # By default a TPU multiplies float32 in one bf16 pass.
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left,
        right,
        (((left_axis,), (right_axis,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
