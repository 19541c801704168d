"""Random batches, for tests that need a valid batch but not its contents."""

import numpy as np

from data_pipelines import packing
from data_pipelines.batch import Batch


def random_batch(packs: int, tokens: int = 64, blocks: int = 4, seed: int = 0) -> Batch:
    """Packs of two samples and some padding, each sample with a video.

    Every second block of 16 patch rows holds one slice of 2 x 4 patches; the others hold two.
    """
    rng = np.random.default_rng(seed)
    result = []
    for index in range(packs):
        pack = packing.empty_pack(packing.PackShape(tokens, 16 * blocks, 16))
        cut, end = tokens // 2 - index % 3, tokens - 1 - index % 5
        pack.tokens[:end] = rng.integers(0, 700, end)
        pack.targets[: end - 1] = pack.tokens[1:end]
        pack.segments[:end] = 1 + (np.arange(end) >= cut)
        position = np.where(np.arange(tokens) >= cut, np.arange(tokens) - cut, np.arange(tokens))
        pack.positions[:] = (position + np.array([[0], [1], [2]])) * (pack.segments > 0)
        pack.weights[:end] = rng.random(end) < 0.5
        starts = [16 * block + 8 * half for block in range(blocks) for half in range(1 + block % 2)]
        for slice_number, start in enumerate(starts, 1):
            rows = slice(start, start + 8)
            pack.patches[rows] = rng.integers(0, 256, pack.patches[rows].shape)
            pack.slices[rows] = slice_number
            pack.grid[rows] = [[2 * (i // 4) + i % 4 // 2, i % 2, 4, 2] for i in range(8)]
        groups = np.concatenate([[start // 4, start // 4 + 1] for start in starts])
        # The first sample holds the first half of the groups, the second sample the rest.
        for first, share in (
            (2, groups[: len(groups) // 2]),
            (cut + 1, groups[len(groups) // 2 :]),
        ):
            pack.visual_index[first : first + len(share)] = share
            pack.weights[first : first + len(share)] = 0
        result.append(pack)
    arrays = {
        name: np.stack([getattr(pack, name) for pack in result])
        for name in vars(result[0])
        if name != "slice_block"
    }
    return Batch(**arrays, slice_block=16)
