"""`ivx compile --config=...`: the training step of an experiment, compiled for a TPU topology."""

import dataclasses
import re

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

    @classmethod
    def of(cls, given) -> "Asking":
        return cls(given.timeout, given.kernel_pace, given.slice_patches, given.teacher, given.hlo)


def run(given) -> dict:
    from ivx.aot import topology

    config = _config(given)
    if not given.topology:
        raise UserError("no --topology was given; name a slice, as in --topology=v6e:16x16")
    topology.parse(given.topology)
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


def ask(config, place: str, asking: Asking) -> dict:
    """What the compiler says of the step of a checked config, and what follows from it.

    Raises:
      UserError: the mesh does not fit the topology or the shapes.
    """
    from ivx.aot import child, topology

    asked = {
        "config": config.to_dict(),
        "topology": place,
        "text": asking.hlo,
        "teacher": asking.teacher,
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
    result["flops"] = useful(config, asking)
    return price(result, asking.pace)


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


def useful(config, asking: Asking) -> dict[str, float]:
    """Useful FLOPs by part: of full packs with one sample each."""
    from ivx.build import stored
    from ivx.models import spec, work

    data, tokens, stage = config.data, config.data.pack_tokens, config.stage.name
    sizes = stored.model_spec(config)
    if stage == "convert":
        sizes = spec.PRESETS[config.model.preset]("gqa", config.model.dtype)

    def forward(sizes) -> dict[str, float]:
        pairs = tokens * (tokens + 1) // 2
        return work.forward(sizes, tokens, pairs, data.pack_patches, asking.slice_patches)

    parts = forward(sizes) if stage == "convert" else work.training(forward(sizes))
    if stage == "opd":
        taught = forward(spec.PRESETS[asking.teacher]("gqa", config.model.dtype))
        parts |= {f"teacher's {part}": flops for part, flops in taught.items()}
    return {part: data.batch_packs * flops for part, flops in parts.items()}


def price(result: dict, pace: float) -> dict:
    """Puts into what the compiler said of a step a modelled time, where its program is known."""
    from ivx.aot import topology

    if result.get("program"):
        chip, _ = topology.parse(result["topology"])
        result["estimate"] = _estimate(result, chip, pace)
    return result


def _estimate(result: dict, chip, pace: float) -> dict:
    from ivx.aot import estimate, program

    plain, parts = result["program"], result["flops"]
    collectives = tuple(program.Collective(**one) for one in plain["collectives"])
    found = program.Program(collectives, plain["kernels"], plain["cycles"], plain["unknown_loops"])
    time = estimate.estimate(found, chip, result["devices"], parts, pace)
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
