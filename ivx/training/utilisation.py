"""Model FLOPs utilisation (MFU): useful FLOPs of the batches over the peak of the devices.

    mfu = FLOPs per second / (devices * peak)      FLOPs by formula, `ivx.models.flop_counts`

The peak is that of bfloat16. Padding and recomputation are not useful work. On devices whose peak
is unknown, CPUs for one, no MFU is reported.
"""

import jax
import numpy as np

from ivx.aot.chips import CHIPS
from ivx.models import flop_counts
from ivx.models.spec import ModelSpec
from ivx.parallel.compiler import KINDS


def peak(device: jax.Device) -> float | None:
    """Peak bfloat16 FLOPs per second of a device; None if unknown."""
    generation = KINDS.get(device.device_kind)
    return CHIPS[generation].peak if generation else None


def useful(spec: ModelSpec | None, batch: object) -> float | None:
    """FLOPs of a training step on these packs; None for other kinds of models or batches.

    Args:
      spec: of the model.
      batch: a `data_pipelines.batch.Batch` on this host.
    """
    if not hasattr(batch, "slices") or not hasattr(spec, "vision"):
        return None
    lengths, sizes = _run_lengths(batch.segments), _run_lengths(batch.slices)
    pairs, patches = int((lengths * (lengths + 1) // 2).sum()), int(sizes.sum())
    # A patch attends to its own slice: mean slice size over patches.
    seen = int((sizes**2).sum()) / patches if patches else 0
    parts = flop_counts.forward(spec, int(lengths.sum()), pairs, patches, seen)
    return float(sum(flop_counts.training(parts).values()))


def _run_lengths(ids_bt: np.ndarray) -> np.ndarray:
    """Number of elements of each nonzero id in each row, int64."""
    counts = [np.bincount(row)[1:] for row in np.asarray(ids_bt)]
    lengths = np.concatenate(counts) if counts else np.zeros(0)
    return lengths[lengths > 0].astype(np.int64)
