"""Reads a compiled program's HLO text: collectives, kernels, estimated cycles.

An instruction counts once per trip of the loops around it, where the compiler knows the trip count.
All branches of a conditional count.
"""

import collections
import dataclasses
import itertools
import math
import re

import numpy as np

from ivx.aot.frames import Frames, passed

_WIDTHS = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_COLLECTIVES = (
    "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
# Device numbers, counted up over these sizes and transposed.
_IDS = r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)"


@dataclasses.dataclass(frozen=True)
class Collective:
    """All exchanges of one kind along the same mesh axes, in a step.

    Attributes:
      kind: name of the HLO operation.
      axes: names of mesh axes, joined by +.
      times: count.
      bytes: bytes that a device sends on a ring.
    """

    kind: str
    axes: str
    times: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Program:
    """The per-device program of a step.

    Attributes:
      collectives: by kind and axes.
      kernels: calls of each Pallas kernel.
      cycles: the compiler's estimate for all other computation.
      unknown_loops: loops of unknown trip count, which count once.
      places: cycles by function of ivx and by pass.
    """

    collectives: tuple[Collective, ...]
    kernels: dict[str, int]
    cycles: int
    unknown_loops: int
    places: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


def read(text: str, axes: dict[str, int]) -> Program:
    """Reads a program.

    Args:
      text: HLO after all passes.
      axes: sizes of the mesh axes, in the order of device numbers.
    """
    bodies, entry = _computations(text)
    times, unknown = _multiplicities(bodies, entry)
    groups = _groups(axes)
    sent, kernels, cycles = collections.Counter(), collections.Counter(), 0
    calls, frames, places = collections.Counter(), Frames(text), {}
    for name, lines in bodies.items():
        if not times[name]:
            continue
        for line in lines:
            spent = times[name] * estimated_cycles(line)
            if spent:
                cycles += spent
                place = places.setdefault(frames.place(line), collections.Counter())
                place[passed(line)] += spent
            if 'custom_call_target="tpu_custom_call"' in line:
                kernels[_kernel(line)] += times[name]
            kind, size = _collective(line)
            if kind:
                key = kind, _axes_of(line, axes, groups)
                calls[key] += times[name]
                sent[key] += times[name] * _sent_bytes(kind, size, key[1], axes)
    collectives = (Collective(*key, calls[key], sent[key]) for key in calls)
    ordered = tuple(sorted(collectives, key=lambda collective: -collective.bytes))
    return Program(ordered, dict(kernels), cycles, unknown, places)


def estimated_cycles(text: str) -> int:
    """The sum of the compiler's estimates in a text. It writes the largest int64 for "none"."""
    estimates = map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))
    return sum(cycles for cycles in estimates if cycles < 2**62)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each computation, and the name of the entry computation."""
    bodies, entry, current = {}, "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = bodies.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif line == "}":  # metadata of a kernel may begin a line with more than this
            current = None
        elif current is not None and " = " in line:
            current.append(line)
    return bodies, entry


def _multiplicities(bodies: dict[str, list[str]], entry: str) -> tuple[collections.Counter, int]:
    """The run count of each computation, and the number of loops of unknown trip count."""
    # Caller -> (callee, count); computations precede their callers.
    called, unknown = collections.defaultdict(list), 0
    for name, lines in bodies.items():
        for line in lines:
            trips = _trip_count(line, bodies)
            unknown += trips == 0
            for single, several in _CALLED.findall(line):
                for inner in [single] if single else re.findall(r"[\w.\-]+", several):
                    called[name].append((inner, trips or 1))
    times = collections.Counter({entry: 1})
    for name in reversed(bodies):
        for inner, count in called[name]:
            times[inner] += times[name] * count
    return times, unknown


def _kernel(line: str) -> str:
    """The name of a kernel: that of pallas_call, or of the instruction for a kernel of XLA."""
    pallas = re.search(r'op_name="[^"]*?([^/"]+)/pallas_call', line)
    match = pallas or re.match(r"\s*(?:ROOT )?%?([\w\-]+)", line)
    return match[1]


def _trip_count(line: str, bodies: dict[str, list[str]]) -> int:
    """The trip count of a loop; 0 if it is unknown, 1 if the line is not a loop.

    Scans count from 0 to a constant in the condition.
    """
    condition = re.search(r" while\(.*condition=%?([\w.\-]+)", line)
    if not condition:
        return 1
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    if known:
        return int(known[1])
    text = "\n".join(bodies.get(condition[1], []))
    limits = re.findall(r" = s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in text else 0


def _collective(line: str) -> tuple[str, int]:
    """The kind of the collective that starts in this line, and the bytes of its largest array."""
    match = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(", line)
    if not match or match[2].removesuffix("-start") not in _COLLECTIVES:
        return "", 0
    sizes = [
        _WIDTHS.get(kind, 4) * math.prod(map(int, filter(None, shape.split(","))))
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
    ]
    kind = match[2].removesuffix("-start")
    if kind == match[2]:
        return kind, sum(sizes)  # a tuple holds several arrays
    # A start operation returns operands and results.
    return kind, min(sizes) if kind == "reduce-scatter" else max(sizes)


def _sent_bytes(kind: str, size: int, names: str, axes: dict[str, int]) -> float:
    """Bytes that a device sends for a collective with a result of `size` bytes."""
    count = math.prod(axes.get(name, 1) for name in names.split("+"))
    rest = (count - 1) / count
    if kind == "all-reduce":
        return 2 * size * rest
    if kind == "reduce-scatter":
        return size * count * rest
    return size if kind == "collective-permute" else size * rest


def _groups(axes: dict[str, int]) -> dict[frozenset[int], str]:
    """The devices that exchange with device 0, for every set of axes."""
    names = [name for name, size in axes.items() if size > 1]
    numbers = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    groups = {}
    for length in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, length):
            cut = tuple(slice(None) if name in chosen else 0 for name in axes)
            groups[frozenset(numbers[cut].ravel().tolist())] = "+".join(chosen)
    return groups


def _axes_of(line: str, axes: dict[str, int], groups: dict[frozenset[int], str]) -> str:
    """The mesh axes of a collective."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    named = re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids={_IDS})? {{([^}}]*)}}", line
    )
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    if pairs:
        return _axes_of_pairs(re.findall(r"(\d+),(\d+)", pairs[0]), axes)
    if iota:
        shape = _numbers(iota[1])
        group = frozenset(_devices(iota[2], iota[3]).reshape(shape)[0].tolist())
    elif named:
        sides = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        listing = named[2] or str(math.prod(sides.values()))
        numbers = _devices(listing, named[3]).reshape(tuple(sides.values()))
        across = re.findall(r"'(\w+)'", named[4])
        cut = tuple(slice(None) if axis in across else 0 for axis in sides)
        group = frozenset(numbers[cut].ravel().tolist())
    elif listed:
        group = frozenset(map(int, listed[1].split(",")))
    else:
        return "all"
    low = min(group)
    return groups.get(frozenset(device - low for device in group), f"{len(group)} devices")


def _devices(sizes: str, order: str | None) -> np.ndarray:
    """Device numbers, counted up over these sizes and transposed."""
    numbers = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return numbers.transpose(_numbers(order)) if order else numbers


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _axes_of_pairs(pairs: list[tuple[str, str]], axes: dict[str, int]) -> str:
    shape = tuple(axes.values())
    moved = set()
    for source, target in pairs:
        ends = [np.unravel_index(int(end), shape) for end in (source, target)]
        moved |= {name for name, a, b in zip(axes, *ends, strict=True) if a != b}
    return "+".join(name for name in axes if name in moved) or "none"
