"""From a config to its stage: batches, loss and what trains."""

import dataclasses
from collections.abc import Callable, Iterator

import ml_collections
from jax.sharding import Mesh

from data_pipelines import loader
from ivx import build
from ivx.build import stored
from ivx.conversion import halved
from ivx.errors import UserError
from ivx.evaluation import runner, text_only
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.parallel.shares import pack_share
from ivx.sampling.sampler import Sampler
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.stages.distillation import DistillationStage
from ivx.stages.gspo import GspoSpec, GspoStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.stages.questions import Questions
from ivx.stages.rehearsal import RehearsalStage
from ivx.stages.rollouts import Roller, RolloutSpec
from ivx.training import progress

Config = ml_collections.ConfigDict


def start(config: Config, definition: ModelDefinition) -> Callable[[Params], Params] | None:
    """From shardings to the parameters that a run begins with; None where it makes new ones.

    Raises:
      UserError: `run.start` holds no checkpoint, or one of another architecture.
    """
    if not config.run.start:
        return None
    found = stored.open_model(config.run.start)
    stored.check_same_architecture(found, definition.spec)
    stored.check_whole(found)
    return lambda shardings: found.load(shardings)[0]


def stage(config: Config, mesh: Mesh) -> Stage:
    """The stage, its training data planned and its validation batches read.

    Raises:
      UserError: the data or the teacher are not usable.
    """
    stages = {
        "sft": lambda: _language_model(config),
        "gspo": lambda: _gspo(config, mesh),
        "opd": lambda: _distillation(config, mesh),
    }
    if config.stage.name not in stages:
        raise UserError(
            f"stage.name = {config.stage.name} begins with a conversion; `ivx convert` runs it"
        )
    return _rehearsing(config, stages[config.stage.name]())


def attention_matching(config: Config, original: stored.StoredModel) -> Stage:
    """The trained part of a conversion of this model.

    Raises:
      UserError: the data are not usable.
    """

    def load(mesh: Mesh) -> Params:
        params = _parameters(original, mesh)
        halved.halve(params)
        return params

    matching = AttentionMatchingStage(
        original.definition,
        load,
        _planned_batches(config, tuple(config.data.train)),
        build.validation_batches(config),
    )
    return _rehearsing(config, matching)


def _rehearsing(config: Config, own: Stage) -> Stage:
    """The stage with what the config rehearses beside it."""
    names = tuple(config.stage.rehearse)
    if not names:
        return own
    rehearsed = LanguageModelStage(_planned_batches(config, names), [], config.stage.reduction)
    return RehearsalStage(own, rehearsed, config.stage.rehearsal)


def _language_model(config: Config) -> LanguageModelStage:
    return LanguageModelStage(
        _planned_batches(config, tuple(config.data.train)),
        build.validation_batches(config),
        config.stage.reduction,
    )


def _planned_batches(
    config: Config, names: tuple[str, ...]
) -> Callable[[int], Iterator[loader.Loaded]]:
    """From a batch number to the batches of these data sets that follow, all planned now."""
    rule, shape, packs = (
        build.layout_rule(config),
        build.pack_shape(config),
        config.data.batch_packs,
    )
    steps = config.run.steps
    training = build.plan_of(config, names, steps * packs, config.data.level)
    progress.note(
        f"planned {steps * packs:,} packs over {training.epochs} epochs,"
        f" {training.token_fill:.1%} of tokens and {training.patch_fill:.1%} of patches used,"
        f" the dearest pack of a step {training.unevenness:.2f} times the mean"
    )
    options = build.loader_options(config)
    return lambda first: loader.batches(training, rule, shape, packs, first, options)


def _parameters(model: stored.StoredModel, mesh: Mesh) -> Params:
    """A stored model's parameters, spread over a mesh."""
    return model.load(rules.parameter_shardings(model.definition.abstract, mesh))[0]


def _gspo(config: Config, mesh: Mesh) -> GspoStage:
    stage = config.stage
    return GspoStage(
        _roller(config, mesh),
        build.model_definition(config),
        build.pack_shape(config),
        config.data.batch_packs // pack_share(mesh).count,
        GspoSpec(stage.minibatches, stage.clip_low, stage.clip_high),
        stage.group,
        mesh,
    )


def _distillation(config: Config, mesh: Mesh) -> DistillationStage:
    if not config.stage.teacher:
        raise UserError(
            "no --config.stage.teacher was given; name the workdir or Hugging Face folder of a"
            " teacher with the student's tokenizer"
        )
    teacher = stored.open_model(config.stage.teacher)
    stored.check_whole(teacher)
    words = [stored.words(one) for one in (config, teacher.config)]
    vocabs = [stored.model_spec(one).text.vocab for one in (config, teacher.config)]
    if not words[0].same_vocabulary(words[1]) or vocabs[0] != vocabs[1]:
        raise UserError(
            f"stage.teacher={config.stage.teacher} has another vocabulary than the student;"
            " take a teacher with the same tokenizer"
        )

    return DistillationStage(
        _roller(config, mesh),
        teacher.definition,
        lambda mesh: _parameters(teacher, mesh),
        build.pack_shape(config),
        config.data.batch_packs // pack_share(mesh).count,
        build.validation_batches(config),
    )


def _roller(config: Config, mesh: Mesh) -> Roller:
    """Draws answers to the training questions whose prompt and answer fit into a pack."""
    stage, shape, rule = config.stage, build.pack_shape(config), build.layout_rule(config)
    share = mesh.shape["replica"] * mesh.shape["fsdp"]
    if stage.prompts % share:
        raise UserError(
            f"stage.prompts = {stage.prompts} must be a multiple of replica x fsdp = {share}"
        )
    parts = pack_share(mesh).count
    if stage.prompts * stage.group % (parts * stage.minibatches):
        raise UserError(
            f"stage.prompts x stage.group = {stage.prompts * stage.group} answers must be a"
            f" multiple of {parts} parts that hosts draw, of {stage.minibatches} minibatches each"
        )
    room = dataclasses.replace(shape, tokens=shape.tokens - stage.max_new_tokens)
    questions = []
    for _, found in build.samples(config, tuple(config.data.train), training=True):
        measured = build.measured(found, rule, room)
        questions += [one for one in measured.samples if len(text_only.questions(one)) == 1]
    if not questions:
        raise UserError(
            f"data.train={','.join(config.data.train)} holds no sample of one question with its"
            " truth that fits; rollouts need such"
        )
    progress.note(f"{len(questions):,} questions, {stage.prompts} a rollout, {stage.group} answers")
    end = rule.tokenizer.end_of_turn
    sampler = Sampler(build.model_definition(config), {}, end, mesh, config.model.cache)
    prompts = Questions(
        [runner.as_prompt(sample) for sample in questions],
        rule,
        stage.prompts,
        config.run.seed,
        build.loader_options(config),
        pack_share(mesh),
    )
    spec = RolloutSpec(stage.group, stage.temperature, stage.max_new_tokens, config.run.seed)
    return Roller(prompts, rule.tokenizer, sampler, spec)
