"""What `ivx compile --config` prints of a step: memory, exchanges, kernels, a modelled time."""

from collections.abc import Iterable

from ivx.aot.frames import PASSES

_GIB = 2**30
# Functions that are listed.
_PLACES = 12


def lines(result: dict) -> list[str]:
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
    if not result["flops"]:
        return lines
    total = sum(result["flops"].values())
    lines.append(f"useful FLOPs of a step: {total / 1e15:.2f} P")
    lines += [
        f"  {part:30s} {flops / total:6.1%}"
        for part, flops in sorted(result["flops"].items(), key=lambda one: -one[1])
    ]
    return lines + _estimate_lines(result.get("estimate")) + _place_lines(result)


def _place_lines(result: dict) -> list[str]:
    """Where the estimated cycles are spent: the functions that spend most."""
    places = (result["program"] or {}).get("places")
    if not places or not result.get("estimate"):
        return []
    clock = result["program"]["cycles"] / result["estimate"]["cycles"]
    ordered = sorted(places.items(), key=lambda one: -sum(one[1].values()))
    lines = [f"{'estimated seconds outside Pallas kernels, by function':60s}" + _row(PASSES)]
    for place, spent in ordered[:_PLACES]:
        lines.append(f"  {place:58s}" + _row(f"{spent.get(one, 0) / clock:.3f}" for one in PASSES))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "".join(f"{cell:>10s}" for cell in cells)


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
        f" {found['kernel_pace']:.0%} of the pace of their schedules {found['kernels']:.2f} s,"
        f" exchange {exchange or 'none'} s",
        "  assumed: published peaks and links, a ring of two links for every choice of axes, full"
        " packs of one sample; nothing was timed on a TPU",
    ]
