"""From a config to a run of the loop: optimizer, what trains, lengths, what watches over it."""

from collections.abc import Callable

import ml_collections
import optax

from ivx import build
from ivx.build import stages, stored
from ivx.models.definition import ModelDefinition, Params
from ivx.stages.attention_matching import TRAINS
from ivx.training.checkpoint import Remote
from ivx.training.loop import RunSpec, WatchSpec
from ivx.training.lora import KEY, LoraDefinition
from ivx.training.optimizer import make_optimizer
from ivx.training.parts import Parts
from ivx.training.profiler import window
from ivx.training.state import StepOptions

Config = ml_collections.ConfigDict


def parts(config: Config) -> Parts:
    """What trains of the model, and how fast.

    Raises:
      UserError: a pattern that no parameter has, or nothing is left to train.
    """
    optim = config.optim
    rates = tuple((pattern, float(factor)) for pattern, factor in optim.rates)
    # Beside A and B of LoRA nothing else trains, unless it is named.
    added = (f"{KEY}.*",) if optim.lora_rank else ()
    # Of what a conversion leaves as it is there are no moments either.
    matched = (TRAINS,) if config.stage.name == "convert" and not optim.train else ()
    found = Parts((*added, *matched, *optim.train), tuple(optim.freeze), rates)
    found.check(definition(config).abstract_params)
    return found


def definition(config: Config) -> ModelDefinition:
    """The model as it trains, with LoRA where the config asks for it.

    Raises:
      UserError: LoRA takes no kernel, or one thinner than its rank.
    """
    return stored.as_trained(config, build.model_definition(config))


def start(config: Config, trained: ModelDefinition) -> Callable[[Params], Params] | None:
    """From shardings to the parameters that a run begins with; None where it makes new ones.

    Raises:
      UserError: as `ivx.build.stages.start`.
    """
    own = stages.start(config, trained)
    if own is None or not isinstance(trained, LoraDefinition):
        return own
    return lambda shardings: trained.extend(
        own({name: part for name, part in shardings.items() if name != KEY}), config.run.seed
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer of the parts that train."""
    return make_optimizer(build.optimizer_spec(config), parts(config))


def run_spec(config: Config) -> RunSpec:
    """Length and intervals of the run."""
    run = config.run
    return RunSpec(
        steps=run.steps,
        seed=run.seed,
        accumulation=config.optim.accumulation,
        unit=config.stage.minibatches,
        log_every=run.log_every,
        validate_every=run.validate_every,
        save_every=run.save_every,
        keep=run.keep,
        options=StepOptions(
            parts=parts(config),
            ema=config.optim.ema,
            drop_path=config.optim.drop_path,
            seed=run.seed,
        ),
    )


def watch_spec(config: Config) -> WatchSpec:
    """What watches over the run."""
    train = config.train
    return WatchSpec(
        rollback_after=train.rollback_after,
        spike=train.spike,
        watchdog=train.watchdog,
        watchdog_ends=train.watchdog_ends,
        remote=Remote(train.remote, train.remote_every) if train.remote else None,
        profile=window(train.profile),
    )
