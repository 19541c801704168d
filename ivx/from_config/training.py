"""A run of the training loop from a config: optimizer, trained parameters, lengths, monitoring."""

import pathlib
from collections.abc import Callable

import ml_collections
import optax
from jax.sharding import Mesh

from ivx import config as configs
from ivx import from_config
from ivx.from_config.recording import recording
from ivx.models.definition import ModelDefinition, Params
from ivx.stages.attention_matching import TRAINS
from ivx.stages.protocol import Stage
from ivx.training.checkpoints.checkpoint import Remote
from ivx.training.health.profiler import window
from ivx.training.loop import Length, Run, Watch
from ivx.training.lora import KEY, LoraDefinition
from ivx.training.optimizer import OptimizerSpec, make_optimizer
from ivx.training.parameter_groups import ParameterGroups
from ivx.training.step import StepOptions

Config = ml_collections.ConfigDict


def parameter_groups(config: Config) -> ParameterGroups:
    """Which parameters train, and their learning-rate factors.

    Raises:
      UserError: a pattern matches no parameter, or nothing trains.
    """
    optim = config.optim
    rates = tuple((pattern, float(factor)) for pattern, factor in optim.rates)
    # With LoRA only A and B train, unless other parameters are named.
    added = (f"{KEY}.*",) if optim.lora_rank else ()
    # A conversion trains attention only, so nothing else needs optimizer moments.
    matched = (TRAINS,) if config.stage.name == "convert" and not optim.trainable else ()
    groups = ParameterGroups((*added, *matched, *optim.trainable), tuple(optim.freeze), rates)
    groups.check(from_config.model.training_definition(config).abstract_params)
    return groups


def initial_params(config: Config, trained: ModelDefinition) -> Callable[[Params], Params] | None:
    """A function from shardings to the initial parameters; None for newly initialised ones.

    Raises:
      UserError: `run.start` holds no checkpoint, or one of another architecture.
    """
    if not config.run.start:
        return None
    source = from_config.stored_model.open_model(config.run.start)
    from_config.stored_model.check_same_architecture(source, trained.spec)
    from_config.stored_model.check_has_checkpoint(source)

    def load(shardings: Params) -> Params:
        return source.load(shardings)[0]

    if not isinstance(trained, LoraDefinition):
        return load
    return lambda shardings: trained.extend(
        load({name: part for name, part in shardings.items() if name != KEY}), config.run.seed
    )


def optimizer_spec(config: Config) -> OptimizerSpec:
    """Hyperparameters of the optimizer."""
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
        schedule=optim.schedule,
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer of the trained parameters."""
    return make_optimizer(optimizer_spec(config), parameter_groups(config))


def length(config: Config) -> Length:
    """Steps and intervals of the run."""
    run = config.run
    return Length(
        steps=run.steps,
        unit=config.stage.get("minibatches", 1),
        log_every=run.log_every,
        validate_every=run.validate_every,
        save_every=run.save_every,
        keep=run.keep,
    )


def step_options(config: Config) -> StepOptions:
    """Options of the training step."""
    return StepOptions(
        accumulation=config.optim.accumulation,
        groups=parameter_groups(config),
        ema=config.optim.ema,
        drop_path=config.optim.drop_path,
        seed=config.run.seed,
    )


def watch(config: Config) -> Watch:
    """Monitoring of the run."""
    keys = config.watch
    return Watch(
        rollback_after=keys.rollback_after,
        spike=keys.spike,
        watchdog=keys.watchdog,
        watchdog_ends=keys.watchdog_ends,
        remote=Remote(keys.remote, keys.remote_every) if keys.remote else None,
        profile=window(keys.profile),
    )


def make_run(
    config: Config,
    workdir: pathlib.Path,
    make_stage: Callable[[], Stage],
    mesh: Mesh,
    accept_data_change: bool = False,
) -> Run:
    """The run of a checked config.

    What is quick to check comes first: `make_stage` plans all training data.

    Args:
      config: checked.
      workdir: of the run.
      make_stage: reads and plans the data.
      mesh: devices.
      accept_data_change: whether a restart may go on with other data.

    Raises:
      UserError: a pattern matches no parameter, or `run.start` does not match the model.
    """
    model = from_config.model.training_definition(config)
    transformation, params = optimizer(config), initial_params(config, model)
    with recording() as sources:
        stage = make_stage()
    return Run(
        workdir=workdir,
        config=configs.snapshot(config),
        model=model,
        stage=stage,
        optimizer=transformation,
        mesh=mesh,
        length=length(config),
        options=step_options(config),
        watch=watch(config),
        seed=config.run.seed,
        initial_params=params,
        sources=sources,
        accept_data_change=accept_data_change,
    )
