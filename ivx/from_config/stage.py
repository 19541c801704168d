"""Stages from a config: their batches, losses and trained parameters."""

import dataclasses
from collections.abc import Callable, Iterator

import ml_collections
from jax.sharding import Mesh

from data_pipelines import loader
from ivx import from_config, progress
from ivx.conversion import lossless_bfloat16
from ivx.errors import UserError
from ivx.evaluation import runner, text_only
from ivx.from_config.stored_model import StoredModel
from ivx.models.definition import Params
from ivx.parallel import sharding
from ivx.parallel.batches import pack_share
from ivx.sampling.sampler import Sampler
from ivx.stages import readable
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.stages.distillation import DistillationStage
from ivx.stages.gspo import GspoSpec, GspoStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.stages.questions import Questions
from ivx.stages.rehearsal import RehearsalStage
from ivx.stages.rollouts import Roller, RolloutSpec

Config = ml_collections.ConfigDict


def make_stage(config: Config, mesh: Mesh) -> Stage:
    """The stage of a config, with planned training data and loaded validation batches.

    Raises:
      UserError: the data or the teacher cannot be used.
    """
    stages = {
        "sft": lambda: _language_model(config),
        "gspo": lambda: _gspo(config, mesh),
        "opd": lambda: _distillation(config, mesh),
    }
    if config.stage.name not in stages:
        raise UserError(
            f"`ivx train` cannot run stage.name = {config.stage.name}; use `ivx convert`"
        )
    return _with_rehearsal(config, stages[config.stage.name]())


def attention_matching(config: Config, original: StoredModel) -> Stage:
    """The training stage of a conversion.

    Args:
      config: of the conversion.
      original: the model before conversion.

    Raises:
      UserError: the data cannot be used.
    """

    def load(mesh: Mesh) -> Params:
        params = _parameters(original, mesh)
        lossless_bfloat16.compact(params)
        return params

    matching = AttentionMatchingStage(
        original.definition,
        load,
        _planned_batches(config, tuple(config.data.train)),
        from_config.data.validation_batches(config),
    )
    return _with_rehearsal(config, matching)


def _with_rehearsal(config: Config, stage: Stage) -> Stage:
    """The stage, combined with rehearsal if the config enables it."""
    names = tuple(config.stage.get("rehearse", ()))
    if not names:
        return stage
    rehearsed = LanguageModelStage(_planned_batches(config, names), [], config.stage.reduction)
    return RehearsalStage(stage, rehearsed, config.stage.rehearsal)


def _language_model(config: Config) -> LanguageModelStage:
    return LanguageModelStage(
        _planned_batches(config, tuple(config.data.train)),
        from_config.data.validation_batches(config),
        config.stage.reduction,
    )


def _planned_batches(
    config: Config, names: tuple[str, ...]
) -> Callable[[int], Iterator[loader.LoadedBatch]]:
    """Plans all batches; returns a function from a batch number to the batches from there on."""
    rule, shape, packs = (
        from_config.data.layout_rule(config),
        from_config.data.pack_shape(config),
        config.data.batch_packs,
    )
    steps = config.run.steps
    data_plan = from_config.data.plan_of(config, names, steps * packs, config.data.level)
    progress.note(
        f"planned {steps * packs:,} packs over {data_plan.epochs} epochs: fill"
        f" {data_plan.token_fill:.1%} of tokens, {data_plan.patch_fill:.1%} of patches;"
        f" max / mean pack cost per step {data_plan.unevenness:.2f}"
    )
    options = from_config.data.loader_options(config)

    def open_batches(first: int) -> Iterator[loader.LoadedBatch]:
        loaded = loader.batches(data_plan, rule, shape, packs, first, options)
        return readable.with_samples(loaded, steps - first)

    return open_batches


def _parameters(model: StoredModel, mesh: Mesh) -> Params:
    """A stored model's parameters, sharded over the mesh."""
    return model.load(sharding.parameter_shardings(model.definition.abstract, mesh))[0]


def _gspo(config: Config, mesh: Mesh) -> GspoStage:
    stage = config.stage
    return GspoStage(
        _roller(config, mesh),
        from_config.model.definition(config),
        from_config.data.pack_shape(config),
        config.data.batch_packs // pack_share(mesh).count,
        GspoSpec(stage.minibatches, stage.clip_low, stage.clip_high),
        stage.group,
        mesh,
    )


def _distillation(config: Config, mesh: Mesh) -> DistillationStage:
    if not config.stage.teacher:
        raise UserError(
            "--config.stage.teacher is missing; set it to the workdir or Hugging Face folder of a"
            " teacher with the student's tokenizer"
        )
    teacher = from_config.stored_model.open_model(config.stage.teacher)
    from_config.stored_model.check_has_checkpoint(teacher)
    configs = (config, teacher.config)
    tokenizers = [from_config.model.load_tokenizer(c) for c in configs]
    vocabularies = [from_config.model.spec_of(c).text.vocab for c in configs]
    if not tokenizers[0].same_vocabulary(tokenizers[1]) or vocabularies[0] != vocabularies[1]:
        raise UserError(
            f"stage.teacher={config.stage.teacher} and the student have different vocabularies;"
            " use a teacher with the same tokenizer"
        )

    return DistillationStage(
        _roller(config, mesh),
        teacher.definition,
        lambda mesh: _parameters(teacher, mesh),
        from_config.data.pack_shape(config),
        config.data.batch_packs // pack_share(mesh).count,
        from_config.data.validation_batches(config),
    )


def _roller(config: Config, mesh: Mesh) -> Roller:
    """A sampler of answers to the training questions whose prompt and answer fit into a pack."""
    stage, shape, rule = (
        config.stage,
        from_config.data.pack_shape(config),
        from_config.data.layout_rule(config),
    )
    share = mesh.shape["replica"] * mesh.shape["fsdp"]
    if stage.prompts % share:
        raise UserError(
            f"stage.prompts = {stage.prompts} must be a multiple of replica x fsdp = {share}"
        )
    parts = pack_share(mesh).count
    if stage.prompts * stage.group % (parts * stage.minibatches):
        raise UserError(
            f"stage.prompts x stage.group = {stage.prompts * stage.group} answers must be a"
            f" multiple of {parts} host shares x {stage.minibatches} minibatches"
        )
    prompt_shape = dataclasses.replace(shape, tokens=shape.tokens - stage.max_new_tokens)
    samples = []
    names = tuple(config.data.train)
    for _, measured in from_config.data.fitting_samples(config, names, prompt_shape, training=True):
        samples += [s for s in measured.samples if len(text_only.questions(s)) == 1]
    if not samples:
        raise UserError(
            f"no sample of data.train={','.join(config.data.train)} fits and has exactly one"
            " question with a truth, as rollouts need; add such data, or raise data.pack_tokens"
        )
    progress.note(
        f"{len(samples):,} questions: {stage.prompts} per rollout, {stage.group} answers each"
    )
    end = rule.tokenizer.end_of_turn
    sampler = Sampler(from_config.model.definition(config), {}, end, mesh, config.model.cache)
    questions = Questions(
        [runner.as_prompt(sample) for sample in samples],
        rule,
        stage.prompts,
        config.run.seed,
        from_config.data.loader_options(config),
        pack_share(mesh),
    )
    spec = RolloutSpec(stage.group, stage.temperature, stage.max_new_tokens, config.run.seed)
    return Roller(questions, rule.tokenizer, sampler, spec)
