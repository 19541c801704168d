"""From a config to the typed parts of a run: models, stages and data never read configs."""

import dataclasses
import pathlib

import jax
import ml_collections
from jax.sharding import Mesh

from data_pipelines import loader, packing, plan, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.resize import PixelBudget
from ivx.assistant import Assistant
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES, make_mesh
from ivx.sampling.sampler import Sampler
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.text import tokenizer
from ivx.training import checkpoint, progress
from ivx.training.loop import RunSpec
from ivx.training.optimizer import OptimizerSpec

Config = ml_collections.ConfigDict


def model_spec(config: Config) -> specs.ModelSpec:
    """Sizes of the model."""
    model = config.model
    return dataclasses.replace(
        specs.PRESETS[model.preset](model.attention, model.dtype), remat=model.remat
    )


def model_definition(config: Config) -> ModelDefinition:
    """The model without parameters."""
    return ModelDefinition(model_spec(config))


def mesh(config: Config) -> Mesh:
    """The mesh over all devices.

    Raises:
      UserError: the sizes do not fit the devices, or the packs the mesh.
    """
    found = make_mesh({axis: config.mesh[axis] for axis in AXES})
    share = found.shape["replica"] * found.shape["fsdp"]
    packs = config.data.batch_packs // config.optim.accumulation
    if packs % share:
        raise UserError(
            f"{packs} packs a micro-batch cannot be spread over replica x fsdp = {share};"
            f" make data.batch_packs a multiple of {share * config.optim.accumulation}"
        )
    return found


def layout_rule(config: Config) -> LayoutRule:
    """How samples are laid out.

    Raises:
      UserError: no such tokenizer, or one with more tokens than the model has rows.
    """
    data = config.data
    try:
        words = tokenizer.load(data.tokenizer)
        budget = PixelBudget(data.min_pixels, data.max_pixels)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    rows = model_spec(config).text.vocab
    if words.vocab_size > rows:
        raise UserError(
            f"data.tokenizer has {words.vocab_size} tokens,"
            f" model {config.model.preset} has rows for {rows};"
            " take the tokenizer that belongs to the model"
        )
    return LayoutRule(words, FrameRule(data.fps, data.min_frames, data.max_frames), budget)


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


def run_spec(config: Config) -> RunSpec:
    """Length and intervals of the run."""
    run = config.run
    return RunSpec(
        steps=run.steps,
        seed=run.seed,
        accumulation=config.optim.accumulation,
        log_every=run.log_every,
        validate_every=run.validate_every,
        save_every=run.save_every,
        keep=run.keep,
    )


def loader_options(config: Config) -> loader.LoaderOptions:
    """How batches are read on this host."""
    data = config.data
    return loader.LoaderOptions(
        workers=data.workers,
        threads=data.threads,
        prefetch=data.prefetch,
        cache_bytes=int(data.cache_gib * 2**30),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def samples(
    config: Config, names: tuple[str, ...]
) -> list[tuple[sources.DataSet, list[sources.Sample]]]:
    """Named data sets of the config's mixture, read.

    Raises:
      UserError: the mixture or an annotation is not usable.
    """
    try:
        return [
            (member, sources.read_samples(member))
            for member in sources.read_mixture(config.data.mixture, names)
        ]
    except sources.AnnotationError as error:
        raise UserError(str(error)) from error


def stage(config: Config) -> Stage:
    """The stage, its training data planned and its validation batches read.

    Raises:
      UserError: the data are not usable.
    """
    rule, shape, data = layout_rule(config), pack_shape(config), config.data
    steps, packs = config.run.steps, data.batch_packs
    training = _plan(config, tuple(data.train), rule, shape, steps * packs)
    progress.note(
        f"planned {steps * packs:,} packs over {training.epochs} epochs,"
        f" {training.token_fill:.0%} of tokens and {training.patch_fill:.0%} of patches used"
    )
    options = loader_options(config)
    validation = []
    if data.validation:
        rounds = max(1, config.run.validate_packs // packs)
        watched = _plan(config, tuple(data.validation), rule, shape, rounds * packs)
        loaded = loader.batches(
            watched, rule, shape, packs, 0, dataclasses.replace(options, workers=0)
        )
        validation = [part.batch for part in loaded]
    return LanguageModelStage(
        lambda start: loader.batches(training, rule, shape, packs, start, options),
        validation,
        config.stage.reduction,
    )


def sampler(config: Config, workdir: pathlib.Path) -> tuple[Sampler, int]:
    """A sampler with the newest parameters of a run, and their step.

    Raises:
      UserError: the run has no checkpoint.
    """
    definition = model_definition(config)
    params, step = checkpoint.load_params(workdir, definition.abstract_params)
    return Sampler(definition, params, tokenizer.load(config.data.tokenizer).end_of_turn), step


def assistant(config: Config, workdir: pathlib.Path) -> Assistant:
    """The newest checkpoint of a run, ready to be asked.

    Raises:
      UserError: the run has no checkpoint.
    """
    return Assistant(layout_rule(config), sampler(config, workdir)[0])


def _plan(config: Config, names: tuple[str, ...], rule: LayoutRule, shape, count: int) -> plan.Plan:
    members = []
    for data_set, found in samples(config, names):
        measured = plan.measure(found, rule, shape)
        for sentence in measured.dropped:
            progress.note(f"left out {sentence}")
        members.append(plan.Member(measured, data_set.sample_ratio))
    try:
        return plan.make_plan(members, shape, count, config.data.open_packs, config.run.seed)
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
    if pathlib.Path(path).is_file():
        raise UserError(f"--workdir={path} is a file; give a folder")
    return pathlib.Path(path)
