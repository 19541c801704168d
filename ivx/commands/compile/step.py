"""`ivx compile --config=...`: the training step of an experiment, compiled for a TPU topology."""

import re

from absl import flags

from ivx.commands import config_flag
from ivx.errors import UserError

_GIB = 2**30


def define_flags() -> None:
    config_flag.define_config()
    flags.DEFINE_string("topology", "", "compile: chips of a slice, such as v6e:16x16.")
    flags.DEFINE_list("mesh", [], "compile: sizes of mesh axes, such as fsdp:8,context:32.")
    flags.DEFINE_string("hlo", "", "compile: a file to write the compiled program's text to.")
    flags.DEFINE_float(
        "kernel_share",
        0.5,
        "compile: share of the peak that kernels are assumed to reach.",
        0.01,
        1,
    )
    flags.DEFINE_integer(
        "slice_patches", 784, "compile: patches of a slice, for FLOPs; 784 is 448x448.", 4
    )


def run(given) -> dict:
    from ivx.aot import child, topology

    config = _config(given)
    if not given.topology:
        raise UserError("no --topology was given; name a slice, as in --topology=v6e:16x16")
    topology.parse(given.topology)
    asked = {"config": config.to_dict(), "topology": given.topology, "text": given.hlo}
    answer = child.ask("ivx.commands.compile.step_child", asked, given.timeout)
    if answer.found.get("wrong"):
        raise UserError(answer.refusal)
    result = report(config, given, answer)
    page = "\n".join(_page(result))
    print(page)
    if given.out:
        with open(given.out, "w") as file:
            file.write(page + "\n")
    return result


def report(config, given, answer) -> dict:
    """What the compiler said of a step, and what follows from it."""
    from ivx.aot import topology

    chip, _ = topology.parse(given.topology)
    devices = topology.size(given.topology)
    result = {
        "ok": not answer.refusal,
        "topology": given.topology,
        "devices": devices,
        "stage": config.run.follows or config.stage.name,
        "capacity": chip.memory,
        "refusal": answer.refusal,
    } | answer.found
    if answer.refusal:
        said = result.pop("said", "")
        return result | {"largest": largest(said), "knobs": knobs(config, result.get("mesh", {}))}
    parts = _useful(config, given.slice_patches)
    result["flops"] = parts
    if result["program"]:
        result["estimate"] = _estimate(result["program"], chip, devices, parts, given.kernel_share)
    return result


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


def _useful(config, slice_patches: int) -> dict[str, float]:
    """Useful FLOPs of a step by part: full packs of one sample each."""
    from ivx.build import stored
    from ivx.models import work

    data, tokens = config.data, config.data.pack_tokens
    forward = work.forward(
        stored.model_spec(config), tokens, tokens * (tokens + 1) // 2, data.pack_patches,
        slice_patches,
    )  # fmt: skip
    return {part: data.batch_packs * flops for part, flops in work.training(forward).items()}


def _estimate(plain: dict, chip, devices: int, parts: dict, share: float) -> dict:
    from ivx.aot import estimate, program

    collectives = tuple(program.Collective(**one) for one in plain["collectives"])
    found = program.Program(collectives, plain["kernels"], plain["cycles"], plain["unknown_loops"])
    time = estimate.estimate(found, chip, devices, parts, share)
    return {
        "cycles": time.cycles,
        "kernels": time.kernels,
        "exchange": time.exchange,
        "hidden": time.hidden,
        "exposed": time.exposed,
        "mfu_hidden": time.utilisation(time.hidden),
        "mfu_exposed": time.utilisation(time.exposed),
        "kernel_share": share,
    }


def largest(said: str) -> list[str]:
    """The largest buffers, of a refusal for want of memory."""
    found = re.findall(
        r"Size: ([\d.]+[KMG])(?:\n\s+Operator: op_name=\"([^\"]*)\")?(?:[^\n]*)\n\s+Shape: (\S+)",
        said,
    )
    return [
        f"{size} {shape.split('{')[0]} of {operator[-100:] or 'an unnamed operation'}"
        for size, operator, shape in found[:6]
    ]


def knobs(config, mesh: dict[str, int]) -> list[str]:
    """What makes a step smaller, the cheapest first."""
    found, optim = [], config.optim
    share = mesh.get("replica", 1) * mesh.get("fsdp", 1)
    if mesh.get("replica", 1) > 1:
        found.append("mesh.replica lower and mesh.fsdp higher: the state is split further")
    if config.model.remat == "none":
        found.append("model.remat = layer: only inputs of layers are kept, a forward pass more")
    if config.data.batch_packs // optim.accumulation > share:
        found.append(
            f"optim.accumulation = {2 * optim.accumulation}: half the activations,"
            " parameters are gathered twice as often"
        )
    found += [
        f"mesh.context = {2 * mesh.get('context', 1)}: half the tokens of a pack a device,"
        " latents are gathered",
        f"mesh.tensor = {2 * mesh.get('tensor', 1)}: half the heads and features a device,"
        " two exchanges of activations a layer",
        "a larger --topology, or a chip with more memory",
    ]
    return found


def _page(result: dict) -> list[str]:
    """The result for reading."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result.get("mesh", {}).items())
    lines = [f"{result['topology']}, {result['devices']} devices, mesh {mesh}"]
    if "bytes" in result:
        held = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in result["bytes"].items())
        lines.append(f"{result['parameters']:,} parameters; GiB a device: {held}")
    if result["refusal"]:
        lines += [f"does not compile: {result['refusal']}"]
        lines += ["largest buffers:", *(f"  {one}" for one in result["largest"])] * bool(
            result["largest"]
        )
        return [*lines, "what would make it smaller, the cheapest first:",
                *(f"  {one}" for one in result["knobs"])]  # fmt: skip
    memory, capacity = result["memory"], result["capacity"]
    lines.append(
        f"memory a device: arguments {memory['arguments'] / _GIB:.2f}, temporaries"
        f" {memory['temporaries'] / _GIB:.2f}, peak {memory['peak'] / _GIB:.2f} GiB"
        f" of {capacity / _GIB:.2f} ({memory['peak'] / capacity:.0%})"
    )
    lines.append(f"lowered in {result['lower_seconds']:.0f} s, compiled in"
                 f" {result['compile_seconds']:.0f} s")  # fmt: skip
    lines += _program_lines(result["program"])
    total = sum(result["flops"].values())
    lines.append(f"useful FLOPs of a step: {total / 1e15:.2f} P")
    lines += [
        f"  {part:30s} {flops / total:6.1%}"
        for part, flops in sorted(result["flops"].items(), key=lambda one: -one[1])
    ]
    return lines + _estimate_lines(result.get("estimate"))


def _program_lines(found: dict | None) -> list[str]:
    if not found:
        return ["the compiled program could not be printed: collectives and time are unknown"]
    lines = ["exchanges of a device and step:"]
    for one in found["collectives"]:
        lines.append(
            f"  {one['kind']:20s} {one['axes']:16s} {one['times']:6,d} times"
            f" {one['bytes'] / _GIB:9.3f} GiB"
        )
    names = ", ".join(f"{name} x{n}" for name, n in found["kernels"].items())
    lines.append(f"Pallas kernels: {names or 'none'}")
    if found["unknown_loops"]:
        lines.append(f"loops of unknown length, counted once: {found['unknown_loops']}")
    return lines


def _estimate_lines(found: dict | None) -> list[str]:
    if not found:
        return []
    exchange = ", ".join(f"{axes} {s:.2f}" for axes, s in found["exchange"].items() if s >= 0.005)
    return [
        f"modelled step: {found['hidden']:.2f} s with every exchange hidden, MFU"
        f" {found['mfu_hidden']:.2f}; {found['exposed']:.2f} s with none, MFU"
        f" {found['mfu_exposed']:.2f}",
        f"  XLA's estimated cycles {found['cycles']:.2f} s, kernels at"
        f" {found['kernel_share']:.0%} of the peak {found['kernels']:.2f} s,"
        f" exchange {exchange or 'none'} s",
        "  assumed: published peaks and links, a ring of two links for every choice of axes, full"
        " packs of one sample; nothing was timed on a TPU",
    ]
