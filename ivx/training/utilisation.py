"""Model FLOPs utilisation: useful FLOPs of the batches over what the devices could have done.

    mfu = FLOPs a second / (devices * peak)      FLOPs by formula, `ivx.models.work`

The peak is that of bfloat16. Padding does no useful work, nor does what is computed twice. Where
the peak is not known, of a CPU say, there is none.
"""

import jax
import numpy as np

from ivx.aot.chips import CHIPS
from ivx.models import work
from ivx.models.spec import ModelSpec
from ivx.parallel.compiler import KINDS


def peak(device: jax.Device) -> float | None:
    """FLOPs a second of a device in bfloat16; None where ivx does not know it."""
    generation = KINDS.get(device.device_kind)
    return CHIPS[generation].peak if generation else None


def useful(spec: ModelSpec, batch) -> float | None:
    """FLOPs of a training step on these packs; None for batches of another kind.

    Args:
      spec: of the model.
      batch: a `data_pipelines.batch.Batch` on this host.
    """
    if not hasattr(batch, "slices") or not hasattr(spec, "vision"):
        return None
    lengths, sizes = _runs(batch.segments), _runs(batch.slices)
    pairs, patches = int((lengths * (lengths + 1) // 2).sum()), int(sizes.sum())
    # Patches see those of their own slice: the mean over patches.
    seen = int((sizes**2).sum()) / patches if patches else 0
    parts = work.forward(spec, int(lengths.sum()), pairs, patches, seen)
    return float(sum(work.training(parts).values()))


def _runs(numbers_bt: np.ndarray) -> np.ndarray:
    """How often each number but 0 stands in each row, int64."""
    counts = [np.bincount(row)[1:] for row in np.asarray(numbers_bt)]
    found = np.concatenate(counts) if counts else np.zeros(0)
    return found[found > 0].astype(np.int64)
