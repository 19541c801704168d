"""`ivx compile --config=...`: the training step of an experiment, compiled for a TPU topology."""

import dataclasses
import math
import re
from collections.abc import Mapping

from absl import flags

from ivx.commands import config_flag, too_large
from ivx.commands.compile import step_page
from ivx.config_checks import MODELS
from ivx.errors import UserError


def define_flags() -> None:
    config_flag.define_config()
    flags.DEFINE_string("topology", "", "compile: chips of a slice, such as v6e:16x16.")
    flags.DEFINE_list("mesh", [], "compile: sizes of mesh axes, such as fsdp:8,context:32.")
    flags.DEFINE_string("hlo", "", "compile: a file to write the compiled program's text to.")
    flags.DEFINE_float(
        "kernel_pace",
        0.9,
        "compile: pace of Pallas kernels, over that of their static schedules.",
        0.01,
        1,
    )
    flags.DEFINE_integer(
        "slice_patches", 784, "compile: patches of a slice, for FLOPs; 784 is 448x448.", 4
    )
    flags.DEFINE_bool(
        "search", False, "compile: try meshes, micro-batches and remat policies; rank what fits."
    )
    flags.DEFINE_integer("tries", 4, "compile: settings that --search compiles.", 1)
    flags.DEFINE_string(
        "part",
        "",
        "compile: what of a stage, if not its step: prefill or decode of gspo and opd, matching of"
        " convert, whose statistics pass comes first.",
    )
    flags.DEFINE_enum(
        "teacher", "32b", MODELS, "compile: preset of the teacher that opd is compiled with."
    )


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a step is compiled, and what its modelled time assumes; as the flags say."""

    timeout: float
    pace: float
    slice_patches: int
    teacher: str
    hlo: str = ""
    part: str = ""

    @classmethod
    def of(cls, given) -> "Asking":
        how = given.timeout, given.kernel_pace, given.slice_patches
        return cls(*how, given.teacher, given.hlo, given.part)


def run(given) -> dict:
    from ivx.aot import topology

    config = _config(given)
    if not given.topology:
        raise UserError("no --topology was given; name a slice, as in --topology=v6e:16x16")
    topology.parse(given.topology)
    if given.search and given.part:
        raise UserError("--search ranks steps; leave out --search, or --part")
    if given.search:
        from ivx.commands.compile import search

        return search.run(config, given.topology, given.tries, Asking.of(given))
    result = ask(config, given.topology, Asking.of(given))
    page = "\n".join(step_page.lines(result))
    print(page)
    if given.out:
        with open(given.out, "w") as file:
            file.write(page + "\n")
    return result


def ask(config, place: str, asking: Asking, known: dict | None = None) -> dict:
    """What the compiler says of the step of a checked config, and what follows from it.

    Args:
      config: of the step.
      place: the topology.
      asking: how it is asked for.
      known: what it said of this step before; stands where the program is still the same.

    Raises:
      UserError: the mesh does not fit the topology or the shapes.
    """
    from ivx.aot import child, topology

    asked = {
        "config": config.to_dict(),
        "topology": place,
        "text": asking.hlo,
        "teacher": asking.teacher,
        "part": asking.part,
        "known": (known or {}).get("lowered", ""),
    }
    answer = child.ask("ivx.commands.compile.step_child", asked, asking.timeout)
    if answer.found.get("wrong"):
        raise UserError(answer.refusal)
    result = {
        "ok": not answer.refusal,
        "topology": place,
        "devices": topology.size(place),
        "stage": config.stage.name,
        "remat": config.model.remat,
        "accumulation": config.optim.accumulation,
        "capacity": topology.parse(place)[0].memory,
        "refusal": answer.refusal,
        "answered": answer.answered,
    } | answer.found
    if answer.refusal:
        said, mesh = result.pop("said", ""), result.get("mesh", {})
        return result | {
            "largest": too_large.largest(said),
            "knobs": too_large.knobs(config, mesh),
        }
    if known and answer.found["lowered"] == asked["known"]:
        result = known | result
    return price(result | load(config, asking, result["mesh"]), asking.pace)


def _config(given):
    """The config, checked, but for the data and the start that compiling does not need."""
    from ivx import config as configs

    if given.config is None:
        raise UserError("no --config was given; name an experiment, as in"
                        " --config=experiments/sft_long.py")  # fmt: skip
    config = given.config
    config.run.follows = ""
    for one in given.mesh:
        found = re.fullmatch(r"(\w+):(-?\d+)", one)
        if not found or found[1] not in config.mesh:
            raise UserError(
                f"--mesh={one}: expected axis:size with replica, fsdp, tensor or context,"
                " as in fsdp:8,context:32"
            )
        config.mesh[found[1]] = int(found[2])
    configs.validate(config)
    return config


def shapes(config, teacher: str) -> tuple:
    """The model that a stage runs, and its teacher's, if it has one: sizes."""
    from ivx.build import stored
    from ivx.models import spec

    model, stage = config.model, config.stage.name
    # What is converted has grouped attention still, and a teacher is of the family of Qwen.
    grouped = {"convert": model.preset, "opd": teacher}.get(stage)
    grouped = grouped and spec.PRESETS[grouped]("gqa", model.dtype)
    return (grouped, None) if stage == "convert" else (stored.model_spec(config), grouped)


def load(config, asking: Asking, mesh: dict[str, int] | None = None) -> dict:
    """What a step has to do, as `ivx.aot.estimate.Load`: of full packs with one sample each.

    Args:
      config: of the step.
      asking: how it is asked for.
      mesh: the sizes that the axes have; None: those of the config, 1 where it leaves one open.
    """
    from ivx.build import dataless
    from ivx.models import work

    data, tokens, stage = config.data, config.data.pack_tokens, config.stage.name
    if asking.part not in ("", dataless.PARTS[stage][0]):
        # Of these memory is asked for; their time is not modelled.
        return {"flops": {}}
    sizes, teacher = shapes(config, asking.teacher)
    taught = {}

    def forward(sizes) -> dict[str, float]:
        pairs = tokens * (tokens + 1) // 2
        return work.forward(sizes, tokens, pairs, data.pack_patches, asking.slice_patches)

    parts = forward(sizes)
    if stage == "convert":
        # No token is scored.
        del parts["head"]
        parts["sums for the conversion"] = 2 * tokens * work.statistics(sizes)
        # Each layer attends once more, for what queries see of entries (`ivx.conversion.turns`).
        parts["attention"] *= 2
    else:
        parts = work.training(parts)
    if teacher:
        parts |= {f"teacher's {part}": flops for part, flops in forward(teacher).items()}
        # All heads of a layer at once.
        passes = {"attention": teacher.text.depth, "vision attention": teacher.vision.depth}
        taught = {part: depth * config.optim.accumulation for part, depth in passes.items()}
    return {
        "flops": {part: data.batch_packs * flops for part, flops in parts.items()},
        "heads": "grouped" if sizes.text.attention == "gqa" else "latent",
        "taught": taught,
        "backward_calls": _backward_calls(tokens, mesh or config.mesh, sizes.text),
    }


def _backward_calls(tokens: int, mesh: Mapping[str, int], text) -> int:
    """Parts in which a device's queries go back, of as many heads as share a key."""
    from ivx.kernels.dense_attention import tpu_backward

    grouped = text.attention == "gqa"
    # Where devices along `tensor` part those that share a key, fewer do.
    tensor, context = (max(1, mesh.get(axis, 1)) for axis in ("tensor", "context"))
    heads = text.heads // tensor
    shared = math.gcd(heads, text.heads // text.kv_heads) if grouped else 1
    width = text.head_dim * (1 if grouped else 2)
    return tpu_backward.parts((1, 1, shared, tokens // context, width), 2)


def price(result: dict, pace: float) -> dict:
    """Puts into what the compiler said of a step a modelled time, where its program is known.

    A program with kernels of earlier sources, whose pace is not known any more, gets none.
    """
    from ivx.aot import estimate, topology

    result.pop("estimate", None)
    if (
        result.get("flops")
        and result.get("program")
        and result["program"]["kernels"].keys() <= estimate.kernels()
    ):
        chip, _ = topology.parse(result["topology"])
        result["estimate"] = _estimate(result, chip, pace)
    return result


def _estimate(result: dict, chip, pace: float) -> dict:
    from ivx.aot import estimate, program

    plain = result["program"]
    # Rows of before these were kept are of latent heads, without a teacher.
    parts = (result["flops"], result.get("heads", "latent"), result.get("taught", {}))
    calls = result.get("backward_calls", 1)
    collectives = tuple(program.Collective(**one) for one in plain["collectives"])
    found = program.Program(collectives, plain["kernels"], plain["cycles"], plain["unknown_loops"])
    time = estimate.estimate(found, chip, result["devices"], estimate.Load(*parts, calls), pace)
    return {
        "cycles": time.cycles,
        "kernels": time.kernels,
        "exchange": time.exchange,
        "hidden": time.hidden,
        "exposed": time.exposed,
        "mfu_hidden": time.utilisation(time.hidden),
        "mfu_exposed": time.utilisation(time.exposed),
        "kernel_pace": pace,
    }
