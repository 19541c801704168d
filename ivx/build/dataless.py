"""What a stage runs on the devices, with no data and no parameters behind it: to be compiled.

Shapes and shardings are those of a run; what a run would read (samples, a teacher, the model to
convert) is not looked for.

    sft, gspo, opd    the training step of the loop
    convert           the statistics pass over one calibration batch
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from ivx import build
from ivx.build import training
from ivx.conversion import statistics
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.stages.distillation import DistillationStage
from ivx.stages.gspo import GspoBatch, GspoSpec, GspoStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.training import abstract

Config = ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, and what it is called with.

    Attributes:
      function: jitted.
      arguments: of it, shapes with shardings.
      held: the parts of the arguments by name: parameters, optimizer, frozen, batch.
    """

    function: Callable
    arguments: tuple
    held: dict[str, object]


def program(config: Config, mesh: Mesh, teacher: str) -> Program:
    """What the stage of a config runs.

    Args:
      config: of the stage.
      mesh: devices, which need not be there.
      teacher: preset of the teacher, with grouped attention, where the stage has one.

    Raises:
      UserError: shapes that the mesh does not divide.
    """
    if config.stage.name == "convert":
        return _statistics(config, mesh)
    definition, optimizer = training.definition(config), training.optimizer(config)
    options = training.run_spec(config).options
    shardings = abstract.state_shardings(definition, optimizer, mesh, options.ema > 0)
    state = abstract.abstract_state(definition, optimizer, shardings)
    taught = _teacher(config, teacher)
    frozen = _parameters(taught, mesh) if config.stage.name == "opd" else {}
    batch = _batch(config, mesh)
    step = abstract.jit_step(
        definition,
        _stage(config, mesh, taught),
        optimizer,
        config.optim.accumulation,
        shardings,
        mesh,
        options,
    )
    held = {"parameters": state.params, "optimizer": state.opt_state, "batch": batch}
    return Program(step, (state, frozen, batch), held | ({"teacher": frozen} if frozen else {}))


def _stage(config: Config, mesh: Mesh, teacher: ModelDefinition) -> Stage:
    """The loss of a stage and what it trains."""
    shape, packs, stage = build.pack_shape(config), config.data.batch_packs, config.stage
    if stage.name == "gspo":
        numbers = GspoSpec(stage.minibatches, stage.clip_low, stage.clip_high)
        definition = build.model_definition(config)
        return GspoStage(None, definition, shape, packs, numbers, stage.group, mesh)
    if stage.name == "opd":
        return DistillationStage(None, teacher, None, shape, packs, [])
    return LanguageModelStage(lambda first: iter(()), [], stage.reduction)


def _batch(config: Config, mesh: Mesh):
    """The shapes of a stage's global batch."""
    batch = build.abstract_batch(config, mesh)
    if config.stage.name != "gspo":
        return batch
    packs = config.data.batch_packs
    row = jnp.zeros((1, config.data.pack_tokens), jnp.float32)
    beside = rules.abstract_batch((row, row, jnp.zeros(1, jnp.float32)), packs, mesh)
    return GspoBatch(batch, *beside)


def _teacher(config: Config, preset: str) -> ModelDefinition:
    spec = specs.PRESETS[preset]("gqa", config.model.dtype)
    return ModelDefinition(dataclasses.replace(spec, remat=config.model.remat))


def _parameters(definition: ModelDefinition, mesh: Mesh) -> Params:
    """Shapes of parameters, float32."""
    shardings = rules.parameter_shardings(definition.abstract, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        definition.abstract_params,
        shardings,
    )


def _statistics(config: Config, mesh: Mesh) -> Program:
    """The pass over the model that is converted."""
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = build.model_definition(grouped)
    params, batch = _parameters(definition, mesh), build.abstract_batch(config, mesh)
    run = statistics.jit_watched(definition, mesh)
    return Program(run, (params, batch), {"parameters": params, "batch": batch})
