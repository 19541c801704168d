"""From a config to the typed parts of a run: models, stages and data never read configs."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
from jax.sharding import Mesh

from data_pipelines import loader, packing, plan, sources
from data_pipelines.batch import Batch
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import read as prepared
from data_pipelines.sources import usable
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.limits import Limits
from data_pipelines.video.resize import PixelBudget
from ivx.assistant import Assistant
from ivx.build import stored
from ivx.build.devices import mesh
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import rules
from ivx.parallel.shares import pack_share
from ivx.sampling.sampler import Sampler
from ivx.training import progress
from ivx.training.optimizer import OptimizerSpec

Config = ml_collections.ConfigDict
# In which workers hand over their batches.
_SHARED_MEMORY = pathlib.Path("/dev/shm")


def model_definition(config: Config) -> ModelDefinition:
    """The model without parameters."""
    return ModelDefinition(stored.model_spec(config))


def layout_rule(config: Config) -> LayoutRule:
    """How samples are laid out.

    Raises:
      UserError: no such tokenizer, or one with more tokens than the model has rows.
    """
    data, words = config.data, stored.words(config)
    try:
        budget = PixelBudget(data.min_pixels, data.max_pixels)
        image_budget = PixelBudget(data.image_min_pixels, data.image_max_pixels)
    except ValueError as error:
        raise UserError(str(error)) from error
    rows = stored.model_spec(config).text.vocab
    if words.vocab_size > rows:
        raise UserError(
            f"data.tokenizer has {words.vocab_size} tokens,"
            f" model {config.model.preset} has rows for {rows};"
            " take the tokenizer that belongs to the model"
        )
    frame_rule = FrameRule(data.fps, data.min_frames, data.max_frames)
    limits = Limits(
        frame_pixels=data.limit_frame_pixels,
        frames=data.limit_frames,
        hours=data.limit_hours,
        decode_gib=data.limit_decode_gib,
        decode_seconds=data.limit_decode_seconds,
    )
    return LayoutRule(words, frame_rule, budget, image_budget, limits=limits)


def pack_shape(config: Config) -> packing.PackShape:
    """Room in a pack.

    Raises:
      UserError: the patches are not a multiple of the slice block.
    """
    try:
        data = config.data
        return packing.PackShape(data.pack_tokens, data.pack_patches, data.slice_block)
    except ValueError as error:
        raise UserError(f"data.pack_patches: {error}") from error


def optimizer_spec(config: Config) -> OptimizerSpec:
    """Numbers of the optimizer."""
    optim = config.optim
    return OptimizerSpec(
        learning_rate=optim.learning_rate,
        floor=optim.floor,
        warmup=optim.warmup,
        steps=config.run.steps,
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        clip=optim.clip,
    )


def loader_options(config: Config) -> loader.LoaderOptions:
    """How batches are read on this host.

    Raises:
      UserError: the shared memory of this host has no room for what workers hand over.
    """
    data = config.data
    share = pack_share(mesh(config)) if jax.process_count() > 1 else None
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
    """Without room in it a worker would die of a bus error, which says nothing."""
    workers = config.data.workers
    batch = config.data.batch_packs // count * pack_shape(config).nbytes
    # A worker makes one while another waits, and one is trained on.
    needed = batch * (2 * workers + 1)
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed:
        raise UserError(
            f"data.workers = {workers} hand over batches of {batch / 2**30:.2f} GiB in"
            f" {_SHARED_MEMORY}, which has {free / 2**30:.2f} GiB free of the"
            f" {needed / 2**30:.2f} GiB needed; enlarge it (docker run --shm-size, or an emptyDir"
            " with medium: Memory there), or set data.workers = 0 to read in threads"
        )


def samples(
    config: Config, names: tuple[str, ...], training: bool = False
) -> list[tuple[sources.DataSet, Sequence[sources.Sample]]]:
    """Named data sets of the config's mixture, read; prepared ones when they are asked for.

    Of what is trained on, up to `data.max_bad_samples` annotations may be unusable: they are named
    and left out. What is evaluated is used whole or not at all.

    Raises:
      UserError: the mixture or an annotation is not usable.
    """
    if not config.data.mixture:
        raise UserError(
            "this model knows of no data; name a mixture file, as `ivx data synthesize` makes it"
        )
    mixture = config.data.mixture
    try:
        data_sets = sources.read_mixture(mixture, names)
        usable.check_bounds(mixture, data_sets, layout_rule(config))
        found = [(one, *_read(one, training)) for one in data_sets]
        faults = usable.check_found(mixture, found, config.data.max_bad_samples)
    except sources.AnnotationError as error:
        raise UserError(str(error)) from error
    for sentence in faults:
        progress.note(f"left out {sentence}")
    if faults:
        progress.note(f"{len(faults):,} unusable annotations were left out")
    return [(one, read) for one, read, _ in found]


def _read(
    data_set: sources.DataSet, training: bool
) -> tuple[Sequence[sources.Sample], Sequence[str]]:
    """Samples, and a sentence for each annotation that is none."""
    if data_set.prepared:
        read = prepared.PreparedSamples(data_set.prepared, data_set.overrides)
        if training:
            # What preparation left out is named when it is measured.
            return read, read.faults
        for sentence in (*read.faults, *read.left_out):
            raise sources.AnnotationError(sentence)
        return read, ()
    if not training:
        return sources.read_samples(data_set), ()
    found = sources.read(data_set)
    return found.samples, found.sentences


def validation_batches(config: Config) -> list[Batch]:
    """The batches on which a loss is watched: whole ones, about `run.validate_packs` packs."""
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
    """The plan of the first `count` batches of the named data sets, and from a number to the
    batches from there on, read without worker processes."""
    packs = config.data.batch_packs
    options = dataclasses.replace(loader_options(config), workers=0)
    # Levelled, a few batches would be of one kind.
    planned = plan_of(config, names, count * packs, level=False)
    rule, shape = layout_rule(config), pack_shape(config)

    def opened(first: int) -> Iterator[Batch]:
        loaded = loader.batches(planned, rule, shape, packs, first, options)
        return (part.batch for part in loaded)

    return planned, opened


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """The shapes of a global batch, with their shardings.

    Raises:
      UserError: as `pack_shape`.
    """
    pack = jax.tree.map(lambda array: array[None], packing.empty_pack(pack_shape(config)))
    return rules.abstract_batch(pack, config.data.batch_packs, mesh)


def sampler(model: stored.StoredModel, mesh: Mesh | None = None) -> tuple[Sampler, int]:
    """A sampler with the parameters of a stored model, and their step; over a mesh if there is one.

    Raises:
      UserError: there is no checkpoint.
    """
    shardings = rules.parameter_shardings(model.definition.abstract, mesh) if mesh else None
    end = stored.words(model.config).end_of_turn
    params, step = model.load(shardings)
    return Sampler(model.definition, params, end, mesh, model.config.model.cache), step


def assistant(model: stored.StoredModel) -> Assistant:
    """A stored model, ready to be asked.

    Raises:
      UserError: there is no checkpoint.
    """
    return Assistant(layout_rule(model.config), sampler(model)[0])


def members(config: Config, names: tuple[str, ...]) -> list[plan.Member]:
    """Named data sets with the sizes of their samples; says what does not fit.

    Faults are left out of the data sets that the config trains on or rehearses, and of no other.

    Raises:
      UserError: the mixture or an annotation is not usable.
    """
    rule, shape = layout_rule(config), pack_shape(config)
    found = []
    training = names in (tuple(config.data.train), tuple(config.stage.rehearse))
    for data_set, read in samples(config, names, training):
        fitting = measured(read, rule, shape)
        if fitting.dropped:
            kept, left = len(fitting.sizes), len(fitting.dropped)
            lost = fitting.dropped_tokens
            progress.note(
                f"{data_set.name}: {left:,} of {kept + left:,} samples left out, with {lost:,} of"
                f" {lost + fitting.sizes.tokens.sum():,} tokens"
            )
        found.append(plan.Member(fitting, data_set.sample_ratio))
    return found


def measured(
    read: Sequence[sources.Sample], rule: LayoutRule, shape: packing.PackShape
) -> plan.Measured:
    """Samples that fit, with their sizes, stored ones where there are; says what does not fit."""
    measure = prepared.measure if isinstance(read, prepared.PreparedSamples) else plan.measure
    found = measure(read, rule, shape)
    for sentence in found.dropped:
        progress.note(f"left out {sentence}")
    return found


def plan_of(config: Config, names: tuple[str, ...], count: int, level: bool) -> plan.Plan:
    """A plan of `count` packs from the named data sets, levelled or not; says what does not fit.

    Raises:
      UserError: as `members`, or nothing is left to train on.
    """
    return plan_from(config, members(config, names), count, level)


def plan_from(config: Config, found: Sequence[plan.Member], count: int, level: bool) -> plan.Plan:
    """As `plan_of`, from data sets that were measured.

    Raises:
      UserError: nothing is left to train on.
    """
    shape, batch = pack_shape(config), config.data.batch_packs
    try:
        return plan.make_plan(found, shape, count, batch, config.run.seed, level)
    except sources.AnnotationError as error:
        raise UserError(str(error)) from error


def workdir(path: str) -> pathlib.Path:
    """The workdir as a path.

    Raises:
      UserError: none was given, or a file is in its place.
    """
    if not path:
        raise UserError(
            "no --workdir was given; say where the run is to live, as in --workdir=/tmp/ivx/sft"
        )
    if "://" in path:
        raise UserError(
            f"--workdir={path} is no folder of this machine; mount the bucket (gcsfuse), or give a"
            " folder here and --config.train.remote for checkpoints"
        )
    if pathlib.Path(path).is_file():
        raise UserError(f"--workdir={path} is a file; give a folder")
    return pathlib.Path(path)
