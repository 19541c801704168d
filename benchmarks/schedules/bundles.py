"""Reads the schedule of a kernel that libtpu dumps: bundles, cut into straight-line sections.

Files of a kernel in the folder of --xla_jf_dump_to (libtpu 0.0.42):

    *-packed-bundles-post-ra                             one bundle per line, including empty ones
    *-pre-delay_hlo-static-per-bundle-utilization        slots that each of these bundles fills
    *-schedule-analysis_packed-bundles-post-ra           the HLO instruction of the kernel
    *-original                                           memory allocations and their purpose
    *-post-bundle-packing-post-ra                        memory for spilled registers

Later files fold empty bundles into delays and would give too few cycles.

A bundle issues in one cycle. Stalls on DMA, on HBM and on the other core are not included, so cycle
counts are lower bounds of the time.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence

# Branch delay slots.
_DELAY = 4
_GRANULE = 32
_BUNDLE = re.compile(r"^ *(?:0x)?([0-9a-f]+) +(?:[A-Z]{2})? *: ([> ]*)\{", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel (\(.*?\) )?target bundleno = (\d+)")
_ALLOCATION = re.compile(r"#(allocation\w+) \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)")


class UnreadableDump(ValueError):
    """The compiler's files have an unknown format."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A straight-line run of bundles, without branches.

    Attributes:
      start: index of the first bundle.
      cycles: count of bundles.
      loop: first bundle of the innermost enclosing loop, or -1.
      conditional: whether a branch may skip it.
      used: instructions per slot.
      pushes: weights pushed into matrix units.
      bytes_in: copied from HBM by DMAs that start here, if their size is static.
      bytes_out: copied to HBM.
    """

    start: int
    cycles: int
    loop: int
    conditional: bool
    used: dict[str, int]
    pushes: int
    bytes_in: int
    bytes_out: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """The schedule of a kernel.

    Attributes:
      name: of its HLO instruction, without the trailing number.
      slots: how many instructions of each kind fit into a bundle.
      sections: in order.
      vmem: bytes of windows, scratch and spilled registers.
      spilled: bytes of spilled registers.
    """

    name: str
    slots: dict[str, int]
    sections: tuple[Section, ...]
    vmem: int
    spilled: int


def read(folder: pathlib.Path) -> list[Listing]:
    """Every Pallas kernel of a dump, in the order of compilation.

    Raises:
      UnreadableDump: the files have an unknown format.
    """
    suffix = "-schedule-analysis_packed-bundles-post-ra.txt"
    listings = []
    for path in sorted(folder.glob(f"*{suffix}")):
        stem = re.sub(r"-\d+$", "", path.name.removesuffix(suffix))
        # TLP is the program around the kernels.
        if "tpu_custom_call" in path.read_text() and not stem.endswith("-TLP"):
            listings.append(_read(folder, stem))
    return listings


def _read(folder: pathlib.Path, stem: str) -> Listing:
    bundles = _split(_file(folder, stem, "packed-bundles-post-ra"))
    slots, filled = _slots(_file(folder, stem, "pre-delay_hlo-static-per-bundle-utilization"))
    if len(bundles) != len(filled):
        raise UnreadableDump(
            f"{stem} has {len(bundles)} bundles, but utilization of {len(filled)} bundles"
        )
    allocations = dict(_ALLOCATION.findall(_file(folder, stem, "original")))
    packed = dict(_ALLOCATION.findall(_file(folder, stem, "post-bundle-packing-post-ra")))
    spilled = sum(int(size, 16) for name, size in packed.items() if name.endswith("_spill"))
    return Listing(
        name=re.sub(r"^\d+-|\.\d+$", "", stem),
        slots=slots,
        sections=tuple(_sections(bundles, slots, filled)),
        vmem=sum(int(size, 16) for size in allocations.values()) + spilled,
        spilled=spilled,
    )


def _file(folder: pathlib.Path, stem: str, kind: str) -> str:
    paths = [
        path
        for path in folder.iterdir()
        if re.fullmatch(re.escape(stem) + rf"-\d+-{re.escape(kind)}\.txt", path.name)
    ]
    if len(paths) != 1:
        raise UnreadableDump(f"{folder} has {len(paths)} files {stem}-*-{kind}.txt, expected one")
    return paths[0].read_text()


def _split(text: str) -> list[str]:
    """The text of each bundle; comments may contain line breaks."""
    starts = list(_BUNDLE.finditer(text))
    for index, start in enumerate(starts):
        if int(start[1], 16) != index:
            raise UnreadableDump(f"bundle {index} has the number {start[1]}")
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return [text[start.end() : end] for start, end in zip(starts, ends, strict=True)]


def _slots(text: str) -> tuple[dict[str, int], list[list[int]]]:
    """The capacity of a bundle by kind of instruction, and the use of each bundle."""
    lines = text.splitlines()
    names = [name.strip() for name in lines[1].split(",")]
    rows = [[int(number) for number in line.split()] for line in lines[4:] if line.strip()]
    return dict(zip(names, map(int, lines[2].split()), strict=True)), rows


def _sections(
    bundles: Sequence[str], slots: dict[str, int], filled: Sequence[list[int]]
) -> Iterator[Section]:
    loops, skipped, cuts = [], [], {0}
    for index, text in enumerate(bundles):
        for predicate, goal in _BRANCH.findall(text):
            target, after = int(goal), index + _DELAY + 1
            cuts |= {target, after}
            if target <= index:
                loops.append((target, after))
            elif predicate:
                skipped.append((after, target))
    # A section ends after a branch or before a branch target.
    edges = [*sorted(cut for cut in cuts if cut < len(bundles)), len(bundles)]
    for start, end in itertools.pairwise(edges):
        enclosing = [loop for loop in loops if loop[0] <= start < loop[1]]
        totals = [sum(column) for column in zip(*filled[start:end], strict=True)]
        instructions = [line for text in bundles[start:end] for line in text.split(";;")]
        yield Section(
            start=start,
            cycles=end - start,
            loop=max((first for first, _ in enclosing), default=-1),
            conditional=any(first <= start and end <= last for first, last in skipped),
            used=dict(zip(slots, totals, strict=True)),
            pushes=sum("= vmatpush" in line for line in instructions),
            bytes_in=_copied(instructions, "hbm_to_vmem"),
            bytes_out=_copied(instructions, "vmem_to_hbm"),
        )


def _copied(instructions: Sequence[str], direction: str) -> int:
    granules = 0
    for line in instructions:
        if re.match(rf"\s*%\d+ = dma\.{direction}\b", line):
            size = re.search(r"size_in_granules=\*/(\d+)", line)
            granules += int(size[1]) if size else 0
    return granules * _GRANULE
