"""Batches of random numbers, for what asks of a batch only that it is one."""

import numpy as np

from data_pipelines import packing
from data_pipelines.batch import Batch


def random_batch(packs: int, tokens: int = 64, blocks: int = 4, seed: int = 0) -> Batch:
    """Packs of two samples and some padding, each sample with a video.

    A video has a slice of 2 x 4 patches in every second block of 16, or fills it with two.
    """
    rng = np.random.default_rng(seed)
    made = []
    for number in range(packs):
        pack = packing.empty_pack(packing.PackShape(tokens, 16 * blocks, 16))
        cut, end = tokens // 2 - number % 3, tokens - 1 - number % 5
        pack.tokens[:end] = rng.integers(0, 700, end)
        pack.targets[: end - 1] = pack.tokens[1:end]
        pack.segments[:end] = 1 + (np.arange(end) >= cut)
        place = np.where(np.arange(tokens) >= cut, np.arange(tokens) - cut, np.arange(tokens))
        pack.positions[:] = (place + np.array([[0], [1], [2]])) * (pack.segments > 0)
        pack.weights[:end] = rng.random(end) < 0.5
        starts = [16 * block + 8 * half for block in range(blocks) for half in range(1 + block % 2)]
        for one, start in enumerate(starts, 1):
            rows = slice(start, start + 8)
            pack.patches[rows] = rng.integers(0, 256, pack.patches[rows].shape)
            pack.slices[rows] = one
            pack.grid[rows] = [[2 * (i // 4) + i % 4 // 2, i % 2, 4, 2] for i in range(8)]
        groups = np.concatenate([[start // 4, start // 4 + 1] for start in starts])
        # The first half of the groups stands in the first sample, the rest in the second.
        for first, share in (
            (2, groups[: len(groups) // 2]),
            (cut + 1, groups[len(groups) // 2 :]),
        ):
            pack.visual_index[first : first + len(share)] = share
            pack.weights[first : first + len(share)] = 0
        made.append(pack)
    arrays = {
        name: np.stack([getattr(pack, name) for pack in made])
        for name in vars(made[0])
        if name != "slice_block"
    }
    return Batch(**arrays, slice_block=16)
