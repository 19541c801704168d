"""The data loader: streams packed batches of videos and text to a training step.

    source   `sources` reads annotation files into a list of `Sample`s
    sample   one conversation: messages, and references to its videos and images
    lay_out  `layout.LayoutRule.lay_out`: frames, frame size, tokens and positions; no pixels yet
    pack     `plan` assigns samples to packs by their token and patch counts, before training
    decode   `layout.Layout.read_patches`: video frames become patches of 1536 bytes
    batch    `packing.assemble` writes the samples of a pack into one row of a `Batch`

The plan exists before training starts. This module does the rest while the model trains: Grain
runs it in threads or worker processes, whose number does not change the order of batches.

Shapes: B packs, T tokens per pack, X patches per pack.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from data_pipelines import packing, sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError, SkippedSample
from data_pipelines.plan import Plan


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoadedBatch:
    """One host's share of a batch, and what is reported about it.

    A pytree, so that worker processes hand over the arrays in shared memory and not through a pipe.

    Attributes:
      batch: the arrays that the training step reads: a `Batch`, or what a stage makes of one.
      skipped: samples of the plan that could not be decoded.
      metrics: measured while the batch was made; logged as means over a logging interval.
      samples: ids of the samples in the batch.
      frames: frames in the batch, two per slice.
    """

    batch: Any
    skipped: tuple[SkippedSample, ...]
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    samples: tuple[str, ...] = ()
    frames: int = 0


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """How batches are read. No option changes their contents.

    Attributes:
      workers: decoding processes; 0 decodes in threads of this process.
      threads: decoding threads per process.
      prefetch: batches made ahead.
      cache_bytes: limit on decoded patches kept in memory, per process.
      process_index: which share of a batch this host reads; several hosts may read the same one.
      process_count: shares per batch.
    """

    workers: int
    threads: int
    prefetch: int
    cache_bytes: int
    process_index: int = 0
    process_count: int = 1


@dataclasses.dataclass(frozen=True)
class PackLoader:
    """Turns the samples of a pack into arrays."""

    rule: LayoutRule
    shape: packing.PackShape
    cache: FrameCache

    def load(self, samples: Sequence[sources.Sample]) -> LoadedBatch:
        """Lays out, decodes and packs samples; the result has no axis B yet."""
        layouts, patches, skipped = [], [], []
        for sample in samples:
            try:
                layout = self.rule.lay_out(sample)
                patches.append(self.cache.read(layout))
                layouts.append(layout)
            except MediaError as error:
                skipped.append(SkippedSample.from_error(error, sample.id))
        return LoadedBatch(
            packing.assemble(layouts, patches, self.shape),
            tuple(skipped),
            samples=tuple(layout.sample_id for layout in layouts),
            frames=2 * sum(len(layout.slice_sizes) for layout in layouts),
        )


def stack(packs: Sequence[LoadedBatch]) -> LoadedBatch:
    """Stacks packs into a batch: adds the leading axis B."""
    # A pack of 2,048 frames takes 1.6 GB, so a single pack gets the axis without a copy.
    batch = jax.tree.map(
        lambda *rows: np.stack(rows) if len(rows) > 1 else rows[0][None],
        *[pack.batch for pack in packs],
    )
    return LoadedBatch(
        batch,
        tuple(skipped for pack in packs for skipped in pack.skipped),
        samples=tuple(sample_id for pack in packs for sample_id in pack.samples),
        frames=sum(pack.frames for pack in packs),
    )


def batches(
    plan: Plan,
    rule: LayoutRule,
    shape: packing.PackShape,
    batch_size: int,
    start: int,
    options: LoaderOptions,
) -> Iterator[LoadedBatch]:
    """Iterates over this host's share of the batches from `start` to the end of the plan.

    Args:
      plan: which samples make which pack; its length is a multiple of `batch_size`.
      rule: how samples are laid out.
      shape: tokens and patches per pack.
      batch_size: packs in a global batch, a multiple of `options.process_count`.
      start: index of the first batch, the count of batches that a resumed run has trained on.
      options: processes, threads, and the share of this host.
    """
    if not flags.FLAGS.is_parsed():
        # Grain's workers read absl flags, which are unparsed when ivx is used as a library.
        flags.FLAGS.mark_as_parsed()
    first_pack = start * batch_size + options.process_index
    if first_pack >= len(plan.packs):
        return iter(())
    loader = PackLoader(rule, shape, FrameCache(options.cache_bytes))
    packs = grain.MapDataset.source(plan.packs)[first_pack :: options.process_count]
    dataset = packs.map(loader.load).batch(
        batch_size // options.process_count, drop_remainder=True, batch_fn=stack
    )
    read = grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=options.prefetch)
    stream = dataset.to_iter_dataset(read)
    if options.workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=options.workers))
    return iter(stream)
