"""What a compiled program does, read from its HLO text: collectives, kernels, estimated cycles.

Loops are followed: an instruction counts as often as the trip counts of the loops around it say,
where the compiler knows them. Of branches all are counted.
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
# Device numbers counted up in these sizes, with axes in another order.
_IDS = r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange along some axes of the mesh, in a step.

    Attributes:
      kind: as HLO calls it.
      axes: of the mesh, by name, joined by +.
      times: how often.
      bytes: that a device sends, on a ring.
    """

    kind: str
    axes: str
    times: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Program:
    """A step of one device.

    Attributes:
      collectives: by kind and axes.
      kernels: Pallas kernels by name, and how often each is called.
      cycles: the compiler's estimate for everything else that computes.
      unknown_loops: loops whose trip count the compiler does not know, counted once.
      places: the cycles by function of ours, and by the pass they are of.
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
      axes: sizes of the mesh, by name, in the order in which devices are numbered.
    """
    bodies, entry = _computations(text)
    times, unknown = _multiplicities(bodies, entry)
    groups = _groups(axes)
    found, kernels, cycles = collections.Counter(), collections.Counter(), 0
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
                found[key] += times[name] * _sent(kind, size, key[1], axes)
    collectives = (Collective(*key, calls[key], found[key]) for key in calls)
    ordered = tuple(sorted(collectives, key=lambda one: -one.bytes))
    return Program(ordered, dict(kernels), cycles, unknown, places)


def estimated_cycles(text: str) -> int:
    """The compiler's estimates in a text, summed; where it has none it writes the largest int64."""
    found = map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))
    return sum(one for one in found if one < 2**62)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each computation, and the name of the first."""
    bodies, entry, current = {}, "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = bodies.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif line == "}":  # what kernels carry as metadata may begin a line likewise
            current = None
        elif current is not None and " = " in line:
            current.append(line)
    return bodies, entry


def _multiplicities(bodies: dict[str, list[str]], entry: str) -> tuple[collections.Counter, int]:
    """How often each computation runs, and how many loops have no known count."""
    # Who calls whom, how often; computations stand before their callers.
    called, unknown = collections.defaultdict(list), 0
    for name, lines in bodies.items():
        for line in lines:
            turns = _turns(line, bodies)
            unknown += turns == 0
            for one, several in _CALLED.findall(line):
                for inner in [one] if one else re.findall(r"[\w.\-]+", several):
                    called[name].append((inner, turns or 1))
    times = collections.Counter({entry: 1})
    for name in reversed(bodies):
        for inner, count in called[name]:
            times[inner] += times[name] * count
    return times, unknown


def _kernel(line: str) -> str:
    """The name of a kernel: ours by what pallas_call was given, XLA's own by the instruction."""
    ours = re.search(r'op_name="[^"]*?([^/"]+)/pallas_call', line)
    found = ours or re.match(r"\s*(?:ROOT )?%?([\w\-]+)", line)
    return found[1]


def _turns(line: str, bodies: dict[str, list[str]]) -> int:
    """How often a loop turns, 0 where that is not known; 1 where there is no loop.

    Scans count from 0 to a constant, which stands in the condition.
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
    """The kind of a collective that starts in this line, and the bytes of its largest array."""
    found = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(", line)
    if not found or found[2].removesuffix("-start") not in _COLLECTIVES:
        return "", 0
    sizes = [
        _WIDTHS.get(kind, 4) * math.prod(map(int, filter(None, shape.split(","))))
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1])
    ]
    kind = found[2].removesuffix("-start")
    if kind == found[2]:
        return kind, sum(sizes)  # a tuple is several arrays at once
    # A start returns operands and results.
    return kind, min(sizes) if kind == "reduce-scatter" else max(sizes)


def _sent(kind: str, size: int, names: str, axes: dict[str, int]) -> float:
    """Bytes that a device sends, of a collective whose result is so large."""
    count = math.prod(axes.get(name, 1) for name in names.split("+"))
    rest = (count - 1) / count
    if kind == "all-reduce":
        return 2 * size * rest
    if kind == "reduce-scatter":
        return size * count * rest
    return size if kind == "collective-permute" else size * rest


def _groups(axes: dict[str, int]) -> dict[frozenset[int], str]:
    """The devices that share an exchange with device 0, for every choice of axes."""
    names = [name for name, size in axes.items() if size > 1]
    numbers = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    found = {}
    for length in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, length):
            cut = tuple(slice(None) if name in chosen else 0 for name in axes)
            found[frozenset(numbers[cut].ravel().tolist())] = "+".join(chosen)
    return found


def _axes_of(line: str, axes: dict[str, int], groups: dict[frozenset[int], str]) -> str:
    """The axes along which a collective goes."""
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
    return groups.get(frozenset(one - low for one in group), f"{len(group)} devices")


def _devices(sizes: str, order: str | None) -> np.ndarray:
    """Device numbers counted up in these sizes, with their axes in another order."""
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
