"""Packing: several samples in one sequence, none of which attends to another.

A pack holds T tokens and X patches. Patches are laid out in blocks of `slice_block`, and no slice
straddles a block. Vision attention is therefore dense within blocks and zero across them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.video.patches import ROW
from data_pipelines.video.resize import MERGE


@dataclasses.dataclass(frozen=True)
class PackShape:
    """Capacity of a pack.

    Attributes:
      tokens: T.
      patches: X, a multiple of `slice_block`.
      slice_block: rows of patches that no slice straddles.
    """

    tokens: int
    patches: int
    slice_block: int

    def __post_init__(self) -> None:
        if self.patches % self.slice_block or self.slice_block % (MERGE * MERGE):
            raise ValueError(
                f"patches = {self.patches} must be a multiple of slice_block = {self.slice_block},"
                f" and slice_block a multiple of {MERGE * MERGE}"
            )

    @property
    def nbytes(self) -> int:
        """Size of a pack: eight 4-byte values per token, and a row and five values per patch."""
        return 4 * 8 * self.tokens + (ROW + 4 * 5) * self.patches


@dataclasses.dataclass(frozen=True)
class Size:
    """Room that a sample takes.

    Attributes:
      tokens: count of its tokens.
      runs: (patches per slice, slices) of each video and image.
    """

    tokens: int
    runs: tuple[tuple[int, int], ...]


def size_of(layout: Layout) -> Size:
    """The size of a laid-out sample."""
    shapes = [(*clip.patch_shape, len(clip.times)) for clip in layout.clips]
    return Size(len(layout.tokens), tuple((rows * columns, n) for rows, columns, n in shapes))


def place_slices(sizes: Sequence[int], cursor: int, block: int) -> tuple[list[int], int]:
    """Places slices from row `cursor` on: the first row of each, and the row after the last.

    Raises:
      ValueError: a slice is longer than a block.
    """
    starts = []
    for size in sizes:
        if size > block:
            raise ValueError(f"a slice of {size} patches is longer than slice_block = {block}")
        if cursor % block + size > block:
            cursor += block - cursor % block
        starts.append(cursor)
        cursor += size
    return starts, cursor


def rows_after(runs: Sequence[tuple[int, int]], cursor: int, block: int) -> int:
    """The row after the last, as in `place_slices`, without a loop over slices.

    Args:
      runs: (patches per slice, slices); no slice is longer than a block.
      cursor: the first free row.
      block: rows that no slice straddles.
    """
    for size, count in runs:
        room = block - cursor % block
        if (rest := count - room // size) <= 0:
            cursor += count * size
        else:
            full, last = divmod(rest - 1, block // size)
            cursor += room + full * block + (last + 1) * size
    return cursor


def misfit(size: Size, shape: PackShape) -> str | None:
    """The reason why a sample fits no pack; None if it fits."""
    if size.tokens > shape.tokens:
        return f"{size.tokens} tokens in a pack of {shape.tokens}"
    largest = max((patches for patches, _ in size.runs), default=0)
    if largest > shape.slice_block:
        return f"a slice of {largest} patches in blocks of {shape.slice_block} (data.slice_block)"
    rows = rows_after(size.runs, 0, shape.slice_block)
    return f"{rows} patches in a pack of {shape.patches}" if rows > shape.patches else None


def assemble(
    layouts: Sequence[Layout],
    patches: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
    shape: PackShape,
) -> Batch:
    """Writes samples into one pack: a `Batch` without its leading axis.

    Args:
      layouts: the samples.
      patches: the result of `Layout.read_patches` for each sample.
      shape: capacity of the pack.

    Raises:
      ValueError: the samples do not fit.
    """
    pack = empty_pack(shape)
    token_cursor, patch_cursor, slice_number = 0, 0, 0
    for segment, (layout, (rows, grids)) in enumerate(zip(layouts, patches, strict=True), 1):
        length = len(layout.tokens)
        starts, patch_cursor = place_slices([len(r) for r in rows], patch_cursor, shape.slice_block)
        if token_cursor + length > shape.tokens or patch_cursor > shape.patches:
            raise ValueError(f"sample {layout.sample_id} does not fit into a pack of {shape}")
        span = slice(token_cursor, token_cursor + length)
        pack.tokens[span] = layout.tokens
        pack.segments[span] = segment
        pack.positions[:, span] = layout.positions
        pack.targets[span][:-1] = layout.tokens[1:]
        pack.weights[span][:-1] = layout.trained[1:]
        groups = []
        for start, row, grid in zip(starts, rows, grids, strict=True):
            slice_number += 1
            pack.patches[start : start + len(row)] = row
            pack.grid[start : start + len(row)] = grid
            pack.slices[start : start + len(row)] = slice_number
            first_group = start // (MERGE * MERGE)
            groups.append(np.arange(first_group, first_group + len(row) // (MERGE * MERGE)))
        if groups:
            pack.visual_index[span][layout.is_visual] = np.concatenate(groups)
        token_cursor += length
    return pack


def empty_pack(shape: PackShape) -> Batch:
    """A pack that holds only padding."""
    tokens, patches = shape.tokens, shape.patches
    return Batch(
        tokens=np.zeros(tokens, np.int32),
        segments=np.zeros(tokens, np.int32),
        positions=np.zeros((3, tokens), np.int32),
        targets=np.zeros(tokens, np.int32),
        weights=np.zeros(tokens, np.float32),
        visual_index=np.full(tokens, -1, np.int32),
        patches=np.zeros((patches, ROW), np.uint8),
        slices=np.zeros(patches, np.int32),
        # Padding is marked as one-by-one images, so that nothing divides by zero.
        grid=np.tile(np.array([0, 0, 1, 1], np.int32), (patches, 1)),
        slice_block=shape.slice_block,
    )


def pad_patches(batch: Batch, parts: int) -> Batch:
    """Adds empty slice blocks until `parts` devices can hold equally many."""
    rows = batch.slices.shape[1]
    block = min(batch.slice_block, rows)
    room = -rows % (block * parts)
    if not room:
        return batch
    padding = empty_pack(PackShape(0, room, block))

    def padded(name: str) -> np.ndarray:
        rest = getattr(padding, name)[None]
        array = getattr(batch, name)
        return np.concatenate([array, np.broadcast_to(rest, (len(array), *rest.shape[1:]))], 1)

    arrays = {name: padded(name) for name in ("patches", "slices", "grid")}
    return dataclasses.replace(batch, slice_block=block, **arrays)
