"""Data from a config: layout rule, samples, plans and batches."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
from jax.sharding import Mesh

from data_pipelines import loader, packing, plan, sources
from data_pipelines.batch import Batch
from data_pipelines.data_record import FileRecord
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import read as prepared
from data_pipelines.sources import validation
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.limits import Limits
from data_pipelines.video.resize import PixelBudget
from ivx import from_config, progress
from ivx.errors import UserError
from ivx.from_config import recording
from ivx.parallel import batches
from ivx.parallel.batches import pack_share

Config = ml_collections.ConfigDict
# Decoding workers pass their batches through shared memory.
_SHARED_MEMORY = pathlib.Path("/dev/shm")


def layout_rule(config: Config) -> LayoutRule:
    """How samples become tokens and patches.

    Raises:
      UserError: the tokenizer does not exist, or has more tokens than the model has rows.
    """
    data, tokenizer = config.data, from_config.model.load_tokenizer(config)
    try:
        budget = PixelBudget(data.min_pixels, data.max_pixels)
        image_budget = PixelBudget(data.image_min_pixels, data.image_max_pixels)
    except ValueError as error:
        raise UserError(str(error)) from error
    rows = from_config.model.spec_of(config).text.vocab
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"data.tokenizer has {tokenizer.vocab_size} tokens,"
            f" but model {config.model.preset} has only {rows} rows;"
            " use the tokenizer of the model"
        )
    frame_rule = FrameRule(data.fps, data.min_frames, data.max_frames)
    limits = Limits(
        frame_pixels=data.limit_frame_pixels,
        frames=data.limit_frames,
        hours=data.limit_hours,
        decode_gib=data.limit_decode_gib,
        decode_seconds=data.limit_decode_seconds,
        held_gib=data.limit_held_gib,
    )
    return LayoutRule(tokenizer, frame_rule, budget, image_budget, limits=limits)


def pack_shape(config: Config) -> packing.PackShape:
    """Capacity of a pack.

    Raises:
      UserError: data.pack_patches is not a multiple of the slice block.
    """
    try:
        data = config.data
        return packing.PackShape(data.pack_tokens, data.pack_patches, data.slice_block)
    except ValueError as error:
        raise UserError(f"data.pack_patches: {error}") from error


def loader_options(config: Config) -> loader.LoaderOptions:
    """Loader settings of this host.

    Raises:
      UserError: the shared memory of this host is too small for the workers' batches.
    """
    data = config.data
    share = pack_share(from_config.mesh.make(config)) if jax.process_count() > 1 else None
    if data.workers:
        _check_shared_memory(config, share.count if share else 1)
    return loader.LoaderOptions(
        workers=data.workers,
        threads=data.threads,
        prefetch=data.prefetch,
        cache_bytes=int(data.cache_gib * 2**30),
        process_index=share.index if share else 0,
        process_count=share.count if share else 1,
    )


def _check_shared_memory(config: Config, count: int) -> None:
    """Without enough shared memory a worker would die of a bus error without explanation."""
    workers = config.data.workers
    batch = config.data.batch_packs // count * pack_shape(config).nbytes
    # Each worker fills one batch while another one waits, and one is in training.
    needed = batch * (2 * workers + 1)
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed:
        raise UserError(
            f"data.workers = {workers} needs {needed / 2**30:.2f} GiB in {_SHARED_MEMORY}"
            f" for batches of {batch / 2**30:.2f} GiB, but only {free / 2**30:.2f} GiB are free;"
            " enlarge it (docker run --shm-size, or an emptyDir with medium: Memory there), or set"
            " data.workers = 0 to read in threads"
        )


def samples(
    config: Config, names: tuple[str, ...], training: bool = False
) -> list[tuple[sources.DataSet, Sequence[sources.Sample]]]:
    """Reads the named data sets of the config's mixture; prepared ones are read lazily.

    Training skips up to `data.max_bad_samples` bad annotations and logs each; evaluation rejects
    any.

    Raises:
      UserError: the mixture or an annotation is invalid.
    """
    return [(data_set, read) for data_set, read, _ in _samples(config, names, training)]


def _samples(
    config: Config, names: tuple[str, ...], training: bool
) -> list[tuple[sources.DataSet, Sequence[sources.Sample], tuple[FileRecord, ...]]]:
    """As `samples`, with what the files of each data set were."""
    if not config.data.mixture:
        raise UserError(
            "the config has no data.mixture; set it to a mixture file, such as one written by"
            " `ivx data synthesize`"
        )
    mixture = config.data.mixture
    try:
        data_sets = sources.read_mixture(mixture, names)
        validation.check_overrides(mixture, data_sets, layout_rule(config))
        with progress.waiting("reading annotations"):
            results = [(data_set, *_read(data_set, training)) for data_set in data_sets]
        faults = validation.check_faults(
            mixture, [result[:3] for result in results], config.data.max_bad_samples
        )
    except sources.AnnotationError as error:
        raise UserError(str(error)) from error
    for fault in faults:
        progress.note(f"skipped {fault}")
    if faults:
        progress.note(f"skipped {len(faults):,} unusable annotations")
    return [(data_set, read, files) for data_set, read, _, files in results]


def _read(
    data_set: sources.DataSet, training: bool
) -> tuple[Sequence[sources.Sample], Sequence[str], tuple[FileRecord, ...]]:
    """Samples, the reason for each bad annotation, and what the files were."""
    if data_set.prepared:
        read = prepared.PreparedSamples(data_set.prepared, data_set.overrides)
        if training:
            # `measured` reports the samples that preparation dropped.
            return read, read.faults, read.files
        for fault in (*read.faults, *read.left_out):
            raise sources.AnnotationError(fault)
        return read, (), read.files
    result = sources.read(data_set) if training else sources.read_faultless(data_set)
    return result.samples, result.sentences, result.files


def validation_batches(config: Config) -> list[Batch]:
    """The validation batches: full ones, about `run.validate_packs` packs in total."""
    packs = config.data.batch_packs
    if not config.data.validation:
        return []
    rounds = max(1, config.run.validate_packs // packs)
    return first_batches(config, tuple(config.data.validation), rounds)


def first_batches(config: Config, names: tuple[str, ...], count: int) -> list[Batch]:
    """The first `count` batches of the named data sets, read without worker processes."""
    return list(openable_batches(config, names, count)[1](0))


def openable_batches(
    config: Config, names: tuple[str, ...], count: int
) -> tuple[plan.Plan, Callable[[int], Iterator[Batch]]]:
    """The first `count` batches of the named data sets, read without worker processes.

    Returns:
      Their plan, and a function from a batch number to the batches from there on.
    """
    packs = config.data.batch_packs
    options = dataclasses.replace(loader_options(config), workers=0)
    # Not levelled: a few levelled batches could all be of one kind.
    data_plan = plan_of(config, names, count * packs, level=False)
    rule, shape = layout_rule(config), pack_shape(config)

    def open_batches(first: int) -> Iterator[Batch]:
        loaded = loader.batches(data_plan, rule, shape, packs, first, options)
        return (part.batch for part in loaded)

    return data_plan, open_batches


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """Shapes and shardings of a global batch.

    Raises:
      UserError: as `pack_shape`.
    """
    pack = jax.tree.map(lambda array: array[None], packing.empty_pack(pack_shape(config)))
    return batches.abstract_batch(pack, config.data.batch_packs, mesh)


def members(config: Config, names: tuple[str, ...]) -> list[plan.Member]:
    """Named data sets with the sizes of their samples; logs samples that do not fit.

    Bad annotations are skipped only in the data sets that the config trains on or rehearses.

    Raises:
      UserError: the mixture or an annotation is invalid.
    """
    result = []
    training = names in (tuple(config.data.train), tuple(config.stage.get("rehearse", ())))
    for data_set, fitting in fitting_samples(config, names, pack_shape(config), training):
        if fitting.dropped:
            kept, dropped = len(fitting.sizes), len(fitting.dropped)
            tokens = fitting.dropped_tokens
            progress.note(
                f"{data_set.name}: dropped {dropped:,} of {kept + dropped:,} samples and {tokens:,}"
                f" of {tokens + fitting.sizes.tokens.sum():,} tokens"
            )
        result.append(plan.Member(fitting, data_set.sample_ratio))
    return result


def fitting_samples(
    config: Config, names: tuple[str, ...], shape: packing.PackShape, training: bool
) -> Iterator[tuple[sources.DataSet, plan.MeasuredSamples]]:
    """The samples of the named data sets that fit into a pack; records what each data set is.

    Raises:
      UserError: as `samples`.
    """
    rule = layout_rule(config)
    for data_set, read, files in _samples(config, names, training):
        fitting = measured(read, rule, shape)
        recording.add(data_set, files, fitting.sizes, rule)
        yield data_set, fitting


def measured(
    read: Sequence[sources.Sample], rule: LayoutRule, shape: packing.PackShape
) -> plan.MeasuredSamples:
    """Samples that fit, with their sizes, which prepared data sets store; logs dropped samples."""
    measure = prepared.measure if isinstance(read, prepared.PreparedSamples) else plan.measure
    with progress.waiting("measuring samples"):
        result = measure(read, rule, shape)
    for reason in result.dropped:
        progress.note(f"skipped {reason}")
    return result


def plan_of(config: Config, names: tuple[str, ...], count: int, level: bool) -> plan.Plan:
    """A plan of `count` packs from the named data sets, optionally levelled by cost.

    Raises:
      UserError: as `members`, or no sample fits.
    """
    return plan_from(config, members(config, names), count, level)


def plan_from(
    config: Config, measured_members: Sequence[plan.Member], count: int, level: bool
) -> plan.Plan:
    """As `plan_of`, from measured data sets.

    Raises:
      UserError: no sample fits.
    """
    shape, batch = pack_shape(config), config.data.batch_packs
    try:
        return plan.make_plan(measured_members, shape, count, batch, config.run.seed, level)
    except sources.AnnotationError as error:
        raise UserError(str(error)) from error
