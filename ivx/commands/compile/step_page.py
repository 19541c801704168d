"""The printed report of `ivx compile`: memory, exchanges, kernels, estimated time."""

from collections.abc import Iterable

from ivx.aot.frames import PASSES

_GIB = 2**30
# Functions that are listed.
_FUNCTIONS = 12


def lines(result: dict) -> list[str]:
    """The result as lines of text."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result.get("mesh", {}).items())
    lines = [f"{result['topology']}, {result['devices']} devices, mesh {mesh}"]
    if "bytes" in result:
        sizes = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in result["bytes"].items())
        lines.append(f"{result['parameters']:,} parameters; GiB per device: {sizes}")
    if result["refusal"]:
        lines.append(f"does not compile: {result['refusal']}")
        if result["largest"]:
            lines += ["largest buffers:", *(f"  {buffer}" for buffer in result["largest"])]
        lines.append("changes that make it smaller, the cheapest first:")
        return [*lines, *(f"  {change}" for change in result["knobs"])]
    memory, capacity = result["memory"], result["capacity"]
    lines.append(
        f"memory per device: arguments {memory['arguments'] / _GIB:.2f}, temporaries"
        f" {memory['temporaries'] / _GIB:.2f}, peak {memory['peak'] / _GIB:.2f} GiB"
        f" of {capacity / _GIB:.2f} ({memory['peak'] / capacity:.0%})"
    )
    lines.append(
        f"lowered in {result['lower_seconds']:.0f} s, compiled in {result['compile_seconds']:.0f} s"
    )
    lines += _program_lines(result["program"])
    if not result["flops"]:
        return lines
    total = sum(result["flops"].values())
    lines.append(f"useful FLOPs per step: {total / 1e15:.2f} P")
    lines += [
        f"  {part:30s} {flops / total:6.1%}"
        for part, flops in sorted(result["flops"].items(), key=lambda item: -item[1])
    ]
    return lines + _estimate_lines(result.get("estimate")) + _function_lines(result)


def _function_lines(result: dict) -> list[str]:
    """The functions that take most of the estimated cycles."""
    places = (result["program"] or {}).get("places")
    if not places or not result.get("estimate"):
        return []
    clock = result["program"]["cycles"] / result["estimate"]["cycles"]
    ordered = sorted(places.items(), key=lambda item: -sum(item[1].values()))
    lines = [f"{'estimated seconds outside Pallas kernels, by function':60s}" + _row(PASSES)]
    for place, cycles in ordered[:_FUNCTIONS]:
        lines.append(f"  {place:58s}" + _row(f"{cycles.get(p, 0) / clock:.3f}" for p in PASSES))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "".join(f"{cell:>10s}" for cell in cells)


def _program_lines(program: dict | None) -> list[str]:
    if not program:
        return ["libtpu could not print the compiled program: collectives and time are unknown"]
    lines = ["exchanges per device and step:"]
    for collective in program["collectives"]:
        lines.append(
            f"  {collective['kind']:20s} {collective['axes']:16s} {collective['times']:6,d} times"
            f" {collective['bytes'] / _GIB:9.3f} GiB"
        )
    names = ", ".join(f"{name} x{n}" for name, n in program["kernels"].items())
    lines.append(f"Pallas kernels: {names or 'none'}")
    if program["unknown_loops"]:
        lines.append(f"loops of unknown length, counted once: {program['unknown_loops']}")
    return lines


def _estimate_lines(time: dict | None) -> list[str]:
    if not time:
        return []
    exchange = ", ".join(f"{axes} {s:.2f}" for axes, s in time["exchange"].items() if s >= 0.005)
    return [
        f"estimated step: {time['hidden']:.2f} s if all exchanges overlap, MFU"
        f" {time['mfu_hidden']:.2f}; {time['exposed']:.2f} s if none does, MFU"
        f" {time['mfu_exposed']:.2f}",
        f"  XLA's estimated cycles {time['cycles']:.2f} s, kernels at"
        f" {time['kernel_pace']:.0%} of the pace of their schedules {time['kernels']:.2f} s,"
        f" exchange {exchange or 'none'} s",
        "  assumed: published peaks and links, a ring of two links for every set of axes, full"
        " packs of one sample; nothing was timed on a TPU",
    ]
