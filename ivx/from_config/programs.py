"""The device programs of a stage, for compilation without data and parameters.

Shapes and shardings are those of a run. Files that a run would read (samples, a teacher, the model
to convert) are not needed.

    sft, gspo, opd    the training step of the loop
    gspo, opd         prefill and decode: a rollout's questions, and the sampling of their answers
    convert           the statistics pass over one calibration batch; matching: the training step
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
from data_pipelines.batch import Batch
from ivx import from_config
from ivx.conversion import lossless_bfloat16, statistics
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import batches, sharding
from ivx.sampling import programs
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.stages.distillation import DistillationStage
from ivx.stages.gspo import GspoBatch, GspoSpec, GspoStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Stage
from ivx.training import step as training_step

Config = ml_collections.ConfigDict


# Stage -> names of its programs, the default first.
PARTS = {
    "sft": ("step",),
    "gspo": ("step", "prefill", "decode"),
    "opd": ("step", "prefill", "decode"),
    "convert": ("statistics", "matching"),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and its arguments.

    Attributes:
      function: jitted.
      arguments: shapes with shardings.
      held: named parts of the arguments (parameters, optimizer, batch, ...), for memory reports.
      options: static arguments by name.
    """

    function: Callable
    arguments: tuple
    held: dict[str, object]
    options: dict[str, object] = dataclasses.field(default_factory=dict)


def program(config: Config, mesh: Mesh, teacher: str, part: str = "") -> Program:
    """A program of the config's stage.

    Args:
      config: of the stage.
      mesh: devices, which need not be attached.
      teacher: preset of the teacher, with grouped attention, for stages that have one.
      part: a name in `PARTS`; the first by default.

    Raises:
      UserError: the mesh does not divide a shape, or the stage has no such program.
    """
    parts = PARTS[config.stage.name]
    part = part or parts[0]
    if part not in parts:
        raise UserError(
            f"stage {config.stage.name} has no program {part!r}; use one of {', '.join(parts)}"
        )
    builders = {"statistics": _statistics, "prefill": _prefill, "decode": _decode}
    return builders[part](config, mesh) if part in builders else _step(config, mesh, teacher)


def _step(config: Config, mesh: Mesh, teacher: str) -> Program:
    """The training step."""
    definition, optimizer = (
        from_config.model.training_definition(config),
        from_config.training.optimizer(config),
    )
    options = from_config.training.step_options(config)
    shardings = training_step.state_shardings(definition, optimizer, mesh, options.averaged)
    state = training_step.abstract_state(definition, optimizer, shardings)
    # A conversion matches the model before conversion.
    original = config.model.preset if config.stage.name == "convert" else teacher
    frozen_model = _teacher(config, original)
    frozen = _parameters(frozen_model, mesh) if config.stage.name in ("opd", "convert") else {}
    if config.stage.name == "convert":
        frozen = lossless_bfloat16.compact_shapes(frozen)
    batch = _batch(config, mesh)
    step = training_step.jit_step(
        definition,
        _stage(config, mesh, frozen_model),
        optimizer,
        shardings,
        mesh,
        options,
    )
    held = {"parameters": state.params, "optimizer": state.opt_state, "batch": batch}
    return Program(step, (state, frozen, batch), held | ({"teacher": frozen} if frozen else {}))


def _stage(config: Config, mesh: Mesh, teacher: ModelDefinition) -> Stage:
    """The stage, for its loss and trained parameters only."""
    shape, packs, stage = from_config.data.pack_shape(config), config.data.batch_packs, config.stage
    if stage.name == "gspo":
        spec = GspoSpec(stage.minibatches, stage.clip_low, stage.clip_high)
        definition = from_config.model.definition(config)
        return GspoStage(None, definition, shape, packs, spec, stage.group, mesh)
    if stage.name == "opd":
        return DistillationStage(None, teacher, None, shape, packs, [])
    if stage.name == "convert":
        return AttentionMatchingStage(teacher, None, None, [])
    return LanguageModelStage(lambda first: iter(()), [], stage.reduction)


def _prefill(config: Config, mesh: Mesh) -> Program:
    """Prefill of all questions of a rollout, each as long as a pack."""
    definition, stage, data = from_config.model.definition(config), config.stage, config.data
    row = np.zeros(1, np.int32)
    pack = jax.tree.map(
        lambda array: array[None], packing.empty_pack(from_config.data.pack_shape(config))
    )
    batch, lengths = batches.abstract_batch((pack, row), stage.prompts, mesh)
    params = _parameters(definition, mesh)
    return Program(
        programs.jit_prefill(definition, mesh, config.model.cache),
        (params, batch, lengths),
        {"parameters": params, "batch": (batch, lengths)},
        {"capacity": programs.room(data.pack_tokens, stage.max_new_tokens), "group": stage.group},
    )


def _decode(config: Config, mesh: Mesh) -> Program:
    """Decoding of the answers, each of maximum length."""
    definition, stage = from_config.model.definition(config), config.stage
    prefill = _prefill(config, mesh)
    filled = jax.eval_shape(
        functools.partial(prefill.function, **prefill.options), *prefill.arguments
    )

    def with_sharding(
        shape: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]
    ) -> jax.ShapeDtypeStruct:
        preferred = NamedSharding(mesh, sharding.preferred_spec(axes, mesh))
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=preferred)

    caches = tuple(
        jax.tree.map(with_sharding, cache, programs.cache_axes(cache)) for cache in filled.caches
    )
    logits = with_sharding(filled.logits, ("pack", "vocab"))
    params, shardings = prefill.arguments[0], programs.layer_shardings(definition, mesh)
    layers = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(functools.partial(programs.unstack, definition), params),
        shardings,
    )
    rows = with_sharding(jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32), ("pack",))
    key = jax.eval_shape(lambda: jax.random.key(0))
    end = from_config.model.load_tokenizer(config).end_of_turn
    return Program(
        programs.jit_decode(definition, end, mesh),
        (params, layers, caches, logits, rows, rows, key),
        {"parameters": params, "layers": layers, "caches": caches},
        {"temperature": stage.temperature, "limit": stage.max_new_tokens},
    )


def _batch(config: Config, mesh: Mesh) -> Batch | GspoBatch:
    """Shapes of the stage's global batch."""
    batch = from_config.data.abstract_batch(config, mesh)
    if config.stage.name != "gspo":
        return batch
    packs = config.data.batch_packs
    row = jnp.zeros((1, config.data.pack_tokens), jnp.float32)
    extra = batches.abstract_batch((row, row, jnp.zeros(1, jnp.float32)), packs, mesh)
    return GspoBatch(batch, *extra)


def _teacher(config: Config, preset: str) -> ModelDefinition:
    spec = specs.PRESETS[preset]("gqa", config.model.dtype)
    return ModelDefinition(dataclasses.replace(spec, remat=config.model.remat))


def _parameters(definition: ModelDefinition, mesh: Mesh) -> Params:
    """Shapes of float32 parameters."""
    shardings = sharding.parameter_shardings(definition.abstract, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        definition.abstract_params,
        shardings,
    )


def _statistics(config: Config, mesh: Mesh) -> Program:
    """The statistics pass over the model to convert."""
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = from_config.model.definition(grouped)
    params, batch = _parameters(definition, mesh), from_config.data.abstract_batch(config, mesh)
    run = statistics.jit_watched(definition, mesh)
    return Program(run, (params, batch), {"parameters": params, "batch": batch})
