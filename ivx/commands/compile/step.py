"""Lowers and compiles the step of a config for a TPU topology, in a child process."""

from typing import Any

import ml_collections
from absl import flags

from ivx.aot.child import Answer
from ivx.aot.options import CompileOptions
from ivx.commands import out_of_memory
from ivx.errors import UserError
from ivx.models import spec


def define_compile_flags() -> None:
    """Defines the flags of `CompileOptions` but for --timeout; `benchmarks pods` shares them."""
    flags.DEFINE_string("hlo", "", "File for the text of the compiled program.")
    flags.DEFINE_float(
        "kernel_pace",
        0.9,
        "Pace of Pallas kernels relative to their static schedules.",
        0.01,
        1,
    )
    flags.DEFINE_integer("slice_patches", 784, "Patches of a slice, for FLOPs; 784 is 448x448.", 4)
    flags.DEFINE_string(
        "part",
        "",
        "Part of a stage to compile instead of its step: prefill or decode of gspo and opd,"
        " matching of convert (default: its statistics pass).",
    )
    flags.DEFINE_enum("teacher", "32b", list(spec.PRESETS), "Preset of the teacher of opd.")


def options_of(args: Any) -> CompileOptions:
    """The options that the flags give."""
    return CompileOptions(
        timeout=args.timeout,
        pace=args.kernel_pace,
        slice_patches=args.slice_patches,
        teacher=args.teacher,
        hlo=args.hlo,
        part=args.part,
    )


def compile_step(config: ml_collections.ConfigDict, topology: str, options: CompileOptions) -> dict:
    """Compiles the step of a checked config.

    Args:
      config: config of the step.
      topology: name of the topology.
      options: how the step is compiled.

    Returns:
      The compiler's report with the estimated time, as plain values.

    Raises:
      UserError: the mesh does not fit the topology or the shapes.
    """
    from ivx import from_config
    from ivx.aot import pricing
    from ivx.aot import topology as topologies

    answer = _answer(config, topology, options, lower_only=False)
    result = {
        "ok": not answer.refusal,
        "topology": topology,
        "devices": topologies.size(topology),
        "stage": config.stage.name,
        "remat": config.model.remat,
        "accumulation": config.optim.accumulation,
        "capacity": topologies.parse(topology)[0].memory,
        "refusal": answer.refusal,
        "answered": answer.answered,
    } | answer.found
    if answer.refusal:
        message, mesh = result.pop("said", ""), result.get("mesh", {})
        return result | {
            "largest": out_of_memory.largest(message),
            "knobs": out_of_memory.knobs(config, mesh),
        }
    load = from_config.step_load.load(config, options, result["mesh"])
    return pricing.price(result | load, options.pace)


def lower_step(config: ml_collections.ConfigDict, topology: str, options: CompileOptions) -> Answer:
    """Lowers the step of a checked config and does not compile it.

    Args:
      config: config of the step.
      topology: name of the topology.
      options: how the step would be compiled.

    Returns:
      An answer with the digest of the program as `lowered`.

    Raises:
      UserError: the mesh does not fit the topology or the shapes.
    """
    return _answer(config, topology, options, lower_only=True)


def _answer(
    config: ml_collections.ConfigDict, topology: str, options: CompileOptions, lower_only: bool
) -> Answer:
    from ivx.aot import child

    question = {
        "config": config.to_dict(),
        "topology": topology,
        "text": options.hlo,
        "teacher": options.teacher,
        "part": options.part,
        "lower_only": lower_only,
    }
    answer = child.ask("ivx.commands.compile.process", question, options.timeout)
    if answer.found.get("wrong"):
        raise UserError(answer.refusal)
    return answer
