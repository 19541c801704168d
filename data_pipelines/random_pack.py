"""A full pack of one sample of random tokens and patches, for timing a step without data."""

import math

import numpy as np

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.video.patches import patch_grid
from data_pipelines.video.resize import MERGE

# Patches of a slice: 448x448 pixels, or less if a slice block is smaller.
_SLICE = 784
# Share of the tokens that may be visual.
_VISUAL = 7 / 8


def make(shape: packing.PackShape, vocabulary: int, seed: int = 0) -> Batch:
    """A pack without its leading axis: as many slices as there is room for, then text.

    Args:
      shape: shape of the pack.
      vocabulary: token ids are below this.
      seed: seed of tokens and pixels.
    """
    generator = np.random.default_rng(seed)
    group = MERGE * MERGE
    area = min(_SLICE, shape.slice_block)
    rows = math.isqrt(area) // MERGE * MERGE
    columns = area // rows // MERGE * MERGE
    size = rows * columns
    room = shape.slice_block // size * (shape.patches // shape.slice_block)
    count = min(room, int(shape.tokens * _VISUAL) // (size // group))
    starts, _ = packing.place_slices([size] * count, 0, shape.slice_block)
    pack, grid, visual = packing.empty_pack(shape), patch_grid(rows, columns), []
    for number, start in enumerate(starts, 1):
        pack.slices[start : start + size] = number
        pack.grid[start : start + size] = grid
        visual += range(start // group, (start + size) // group)
    pack.patches[:] = generator.integers(0, 256, pack.patches.shape, np.uint8)
    pack.tokens[:] = generator.integers(0, vocabulary, shape.tokens)
    pack.targets[:-1] = pack.tokens[1:]
    pack.segments[:] = 1
    pack.positions[:] = np.arange(shape.tokens)
    pack.visual_index[: len(visual)] = visual
    # Loss on text alone, as in training.
    pack.weights[len(visual) : -1] = 1
    return pack
