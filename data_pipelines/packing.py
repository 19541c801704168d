"""Packing: several samples side by side in one sequence, none seeing another.

A pack has room for T tokens and X patches. Patches are laid in blocks of `slice_block`; a slice
never straddles a block, so that vision attention is dense within blocks and needs nothing across
them.

    first fit:  each sample goes into the first open pack with room for it;
                when `open_packs` are open and none has room, the oldest is closed
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.video.patches import ROW
from data_pipelines.video.resize import MERGE


@dataclasses.dataclass(frozen=True)
class PackShape:
    """Room in a pack: `tokens`, `patches`, and the `slice_block` in which patches are laid."""

    tokens: int
    patches: int
    slice_block: int

    def __post_init__(self):
        if self.patches % self.slice_block or self.slice_block % (MERGE * MERGE):
            raise ValueError(
                f"patches = {self.patches} must be a multiple of slice_block = {self.slice_block},"
                f" and that a multiple of {MERGE * MERGE}"
            )


@dataclasses.dataclass(frozen=True)
class Size:
    """What a sample needs: its tokens, and the patches of each of its slices."""

    tokens: int
    slices: tuple[int, ...]


def place_slices(sizes: Sequence[int], cursor: int, block: int) -> tuple[list[int], int]:
    """Where slices go when laid from row `cursor` on, and the row after the last.

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


def misfit(size: Size, shape: PackShape) -> str | None:
    """Why a sample cannot go into any pack; None if it can."""
    if size.tokens > shape.tokens:
        return f"{size.tokens} tokens in a pack of {shape.tokens}"
    if size.slices and max(size.slices) > shape.slice_block:
        return f"a slice of {max(size.slices)} patches in blocks of {shape.slice_block}"
    rows = place_slices(size.slices, 0, shape.slice_block)[1]
    return f"{rows} patches in a pack of {shape.patches}" if rows > shape.patches else None


def first_fit(sizes: Iterable[Size], shape: PackShape, open_packs: int) -> list[list[int]]:
    """Assigns samples to packs, each a list of indices into `sizes`; all samples fit alone."""
    closed, bins = [], []
    for index, size in enumerate(sizes):
        for bin_ in bins:
            rows = place_slices(size.slices, bin_[1], shape.slice_block)[1]
            if bin_[0] + size.tokens <= shape.tokens and rows <= shape.patches:
                bin_[0] += size.tokens
                bin_[1] = rows
                bin_[2].append(index)
                break
        else:
            if len(bins) == open_packs:
                closed.append(bins.pop(0)[2])
            bins.append([size.tokens, place_slices(size.slices, 0, shape.slice_block)[1], [index]])
    return closed + [bin_[2] for bin_ in bins]


def assemble(layouts: Sequence[Layout], pixels: Sequence[tuple], shape: PackShape) -> Batch:
    """Lays samples into one pack, a `Batch` without its leading axis.

    Args:
      layouts: the samples.
      pixels: for each, what `Layout.read_patches` gave.
      shape: the room.

    Raises:
      ValueError: they do not fit.
    """
    pack = empty_pack(shape)
    token_cursor, patch_cursor, slice_number = 0, 0, 0
    for number, (layout, (rows, grids)) in enumerate(zip(layouts, pixels, strict=True), 1):
        length = len(layout.tokens)
        starts, patch_cursor = place_slices([len(r) for r in rows], patch_cursor, shape.slice_block)
        if token_cursor + length > shape.tokens or patch_cursor > shape.patches:
            raise ValueError(f"sample {layout.sample_id} does not fit into a pack of {shape}")
        span = slice(token_cursor, token_cursor + length)
        pack.tokens[span] = layout.tokens
        pack.segments[span] = number
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
    """A pack of nothing but padding."""
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
        # Padding pretends to be one-by-one pictures, so that nothing divides by zero.
        grid=np.tile(np.array([0, 0, 1, 1], np.int32), (patches, 1)),
        slice_block=shape.slice_block,
    )
