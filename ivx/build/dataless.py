"""What a stage runs on the devices, with no data and no parameters behind it: to be compiled.

Shapes and shardings are those of a run; what a run would read (samples, a teacher, the model to
convert) is not looked for.

    sft, gspo, opd    the training step of the loop
    gspo, opd         prefill and decode: the questions of a rollout read, and their answers drawn
    convert           the statistics pass over one calibration batch; matching, the training step
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines import packing
from ivx import build
from ivx.build import stored, training
from ivx.conversion import halved, statistics
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.sampling import programs
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.stages.distillation import DistillationStage
from ivx.stages.gspo import GspoBatch, GspoSpec, GspoStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.training import abstract

Config = ml_collections.ConfigDict


# Stage -> the programs of it that can be asked for, the usual one first.
PARTS = {
    "sft": ("step",),
    "gspo": ("step", "prefill", "decode"),
    "opd": ("step", "prefill", "decode"),
    "convert": ("statistics", "matching"),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, and what it is called with.

    Attributes:
      function: jitted.
      arguments: of it, shapes with shardings.
      held: the parts of the arguments by name: parameters, optimizer, frozen, batch.
      options: static arguments, by name.
    """

    function: Callable
    arguments: tuple
    held: dict[str, object]
    options: dict[str, object] = dataclasses.field(default_factory=dict)


def program(config: Config, mesh: Mesh, teacher: str, part: str = "") -> Program:
    """What the stage of a config runs.

    Args:
      config: of the stage.
      mesh: devices, which need not be there.
      teacher: preset of the teacher, with grouped attention, where the stage has one.
      part: a name of `PARTS`; the first by default.

    Raises:
      UserError: shapes that the mesh does not divide, or the stage has no such part.
    """
    parts = PARTS[config.stage.name]
    part = part or parts[0]
    if part not in parts:
        raise UserError(f"stage {config.stage.name} has {', '.join(parts)}, not {part!r}")
    others = {"statistics": _statistics, "prefill": _prefill, "decode": _decode}
    return others[part](config, mesh) if part in others else _step(config, mesh, teacher)


def _step(config: Config, mesh: Mesh, teacher: str) -> Program:
    """A training step."""
    definition, optimizer = training.definition(config), training.optimizer(config)
    options = training.run_spec(config).options
    shardings = abstract.state_shardings(definition, optimizer, mesh, options.ema > 0)
    state = abstract.abstract_state(definition, optimizer, shardings)
    # What is matched in a conversion is the model as it was.
    original = config.model.preset if config.stage.name == "convert" else teacher
    taught = _teacher(config, original)
    frozen = _parameters(taught, mesh) if config.stage.name in ("opd", "convert") else {}
    if config.stage.name == "convert":
        frozen = halved.halved_shapes(frozen)
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
    if stage.name == "convert":
        return AttentionMatchingStage(teacher, None, None, [])
    return LanguageModelStage(lambda first: iter(()), [], stage.reduction)


def _prefill(config: Config, mesh: Mesh) -> Program:
    """All questions of a rollout, each as long as a pack, are read and their caches kept."""
    definition, stage, data = build.model_definition(config), config.stage, config.data
    row = np.zeros(1, np.int32)
    pack = jax.tree.map(lambda array: array[None], packing.empty_pack(build.pack_shape(config)))
    batch, lengths = rules.abstract_batch((pack, row), stage.prompts, mesh)
    params = _parameters(definition, mesh)
    return Program(
        programs.jit_prefill(definition, mesh, config.model.cache),
        (params, batch, lengths),
        {"parameters": params, "batch": (batch, lengths)},
        {"capacity": programs.room(data.pack_tokens, stage.max_new_tokens), "group": stage.group},
    )


def _decode(config: Config, mesh: Mesh) -> Program:
    """Answers to these are drawn, each as long as it may be."""
    definition, stage = build.model_definition(config), config.stage
    asked = _prefill(config, mesh)
    filled = jax.eval_shape(functools.partial(asked.function, **asked.options), *asked.arguments)

    def placed(shape, axes):
        place = NamedSharding(mesh, rules.placed(axes, mesh))
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    caches = tuple(
        jax.tree.map(placed, cache, programs.cache_axes(cache)) for cache in filled.caches
    )
    logits = placed(filled.logits, ("pack", "vocab"))
    params, places = asked.arguments[0], programs.layer_shardings(definition, mesh)
    layers = jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        jax.eval_shape(functools.partial(programs.unstack, definition), params),
        places,
    )
    rows = placed(jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32), ("pack",))
    key = jax.eval_shape(lambda: jax.random.key(0))
    end = stored.words(config).end_of_turn
    return Program(
        programs.jit_decode(definition, end, mesh),
        (params, layers, caches, logits, rows, rows, key),
        {"parameters": params, "layers": layers, "caches": caches},
        {"temperature": stage.temperature, "limit": stage.max_new_tokens},
    )


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
