"""Batches for training, read by Grain: threads or processes decode, neither changes the order."""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from absl import flags

from data_pipelines import packing, sources
from data_pipelines.batch import Batch
from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError, Skipped
from data_pipelines.plan import Plan


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loaded:
    """A host's share of one batch.

    A tree, so that the arrays come from a worker in shared memory and not through a pipe.

    Attributes:
      batch: the arrays.
      skipped: a sentence for each sample that had to be left out.
      numbers: what making the batch measured, to be reported as means between two log lines.
      samples: ids of the samples in it.
      frames: seen, two a slice.
    """

    batch: Batch
    skipped: tuple[Skipped, ...]
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    samples: tuple[str, ...] = ()
    frames: int = 0


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """How batches are read; none of it changes what they hold.

    Attributes:
      workers: processes that decode; 0 decodes in threads of this one.
      threads: threads of each process.
      prefetch: batches made ahead.
      cache_bytes: limit of decoded patches kept in memory.
      process_index: number of this host's share of a batch; several hosts may have the same.
      process_count: shares of a batch.
    """

    workers: int
    threads: int
    prefetch: int
    cache_bytes: int
    process_index: int = 0
    process_count: int = 1


@dataclasses.dataclass(frozen=True)
class _MakePack:
    """Grain's map function: from a pack's samples to its arrays."""

    rule: LayoutRule
    shape: packing.PackShape
    cache: FrameCache

    def __call__(self, samples: Sequence[sources.Sample]) -> Loaded:
        layouts, pixels, skipped = [], [], []
        for sample in samples:
            try:
                layout = self.rule(sample)
                pixels.append(self.cache.read(layout))
                layouts.append(layout)
            except MediaError as error:
                skipped.append(Skipped.by(error, sample.id))
        packed = packing.assemble(layouts, pixels, self.shape)
        ids = tuple(layout.sample_id for layout in layouts)
        frames = 2 * sum(len(layout.slice_sizes) for layout in layouts)
        return Loaded(packed, tuple(skipped), samples=ids, frames=frames)


def stack(packs: Sequence[Loaded]) -> Loaded:
    """Packs side by side: adds the leading axis of a `Batch`."""
    # A pack of 2,048 frames is 1.6 GB; where there is one, it is not copied.
    batch = jax.tree.map(
        lambda *rows: np.stack(rows) if len(rows) > 1 else rows[0][None],
        *[pack.batch for pack in packs],
    )
    return Loaded(
        batch,
        tuple(sentence for pack in packs for sentence in pack.skipped),
        samples=tuple(one for pack in packs for one in pack.samples),
        frames=sum(pack.frames for pack in packs),
    )


def batches(
    plan: Plan,
    rule: LayoutRule,
    shape: packing.PackShape,
    batch_size: int,
    start: int,
    options: LoaderOptions,
) -> Iterator[Loaded]:
    """This host's shares of the batches from number `start` to the end of the plan.

    Args:
      plan: a whole number of batches.
      rule: how samples are laid out.
      shape: room in a pack.
      batch_size: packs in a global batch; the number of hosts divides it.
      start: the cursor: batches already trained on.
      options: see there.
    """
    if not flags.FLAGS.is_parsed():
        # Grain's workers read absl flags, also where no command line was.
        flags.FLAGS.mark_as_parsed()
    first = start * batch_size + options.process_index
    if first >= len(plan.packs):
        return iter(())
    own = grain.MapDataset.source(plan.packs)[first :: options.process_count]
    data_set = own.map(_MakePack(rule, shape, FrameCache(options.cache_bytes))).batch(
        batch_size // options.process_count, drop_remainder=True, batch_fn=stack
    )
    read = grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=options.prefetch)
    iterator = data_set.to_iter_dataset(read)
    if options.workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=options.workers))
    return iter(iterator)
