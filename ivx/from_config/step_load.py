"""The work of a config's step, for full packs of one sample each: models, FLOPs, kernel calls."""

import math
from collections.abc import Mapping

import jax
import ml_collections

from ivx import from_config
from ivx.aot import arithmetic
from ivx.aot.options import CompileOptions
from ivx.kernels.dense_attention import tpu_backward
from ivx.models import flop_counts
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.models.spec import ModelSpec, TextSpec

Config = ml_collections.ConfigDict


def models(config: Config, teacher: str) -> tuple[ModelSpec, ModelSpec | None]:
    """The model that a stage runs, and its teacher or None.

    Args:
      config: config of the stage.
      teacher: preset of the teacher.
    """
    model, stage = config.model, config.stage.name
    # The source of a conversion has grouped attention, and so has a teacher, a Qwen model.
    preset = {"convert": model.preset, "opd": teacher}.get(stage)
    grouped = specs.PRESETS[preset]("gqa", model.dtype) if preset else None
    return (grouped, None) if stage == "convert" else (from_config.model.spec_of(config), grouped)


def load(config: Config, options: CompileOptions, mesh: Mapping[str, int] | None = None) -> dict:
    """The work of a step, as the fields of `ivx.aot.estimate.Load` with `flops` for `parts`.

    Args:
      config: config of the step.
      options: how it is compiled.
      mesh: sizes of the mesh axes; None takes those of the config, and 1 for an open axis.
    """
    data, tokens, stage = config.data, config.data.pack_tokens, config.stage.name
    if options.part not in ("", from_config.programs.PARTS[stage][0]):
        # Only the memory of these parts is reported, so their time is not estimated.
        return {"flops": {}}
    spec, teacher = models(config, options.teacher)

    def forward(spec: ModelSpec) -> dict[str, float]:
        pairs = tokens * (tokens + 1) // 2
        return flop_counts.forward(spec, tokens, pairs, data.pack_patches, options.slice_patches)

    parts, taught = forward(spec), {}
    if stage == "convert":
        # The statistics pass needs no logits.
        del parts["head"]
        parts["sums for the conversion"] = 2 * tokens * flop_counts.statistics(spec)
        # Each layer attends a second time for `ivx.conversion.mean_rotation`.
        parts["attention"] *= 2
    else:
        parts = flop_counts.training(parts)
    if teacher:
        parts |= {f"teacher's {part}": flops for part, flops in forward(teacher).items()}
        # One call per layer covers all its heads.
        passes = {"attention": teacher.text.depth, "vision attention": teacher.vision.depth}
        taught = {part: depth * config.optim.accumulation for part, depth in passes.items()}
    return {
        "flops": {part: data.batch_packs * flops for part, flops in parts.items()},
        "heads": "grouped" if spec.text.attention == "gqa" else "latent",
        "taught": taught,
        "backward_calls": _backward_calls(tokens, mesh or config.mesh.to_dict(), spec.text),
    }


def _backward_calls(tokens: int, mesh: Mapping[str, int], text: TextSpec) -> int:
    """Parts in which the backward kernel takes a device's queries, for heads that share a key."""
    grouped = text.attention == "gqa"
    # `tensor` may split heads that share a key.
    tensor, context = (max(1, mesh.get(axis, 1)) for axis in ("tensor", "context"))
    heads = text.heads // tensor
    shared = math.gcd(heads, text.heads // text.kv_heads) if grouped else 1
    width = text.head_dim * (1 if grouped else 2)
    return tpu_backward.part_count((1, 1, shared, tokens // context, width), 2)


def work(config: Config, options: CompileOptions) -> arithmetic.Work:
    """The work of a step, for estimates by arithmetic."""
    data = config.data
    spec, teacher = models(config, options.teacher)
    return arithmetic.Work(
        spec=spec,
        parameters=_parameter_count(spec),
        packs=data.batch_packs,
        tokens=data.pack_tokens,
        patches=data.pack_patches,
        flops=load(config, options)["flops"],
        trains=config.stage.name != "convert",
        teacher=teacher,
        teacher_parameters=_parameter_count(teacher) if teacher else 0,
    )


def _parameter_count(spec: ModelSpec) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(ModelDefinition(spec).abstract_params))
