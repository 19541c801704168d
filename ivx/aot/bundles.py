"""A kernel's schedule as libtpu writes it: bundles, one a cycle, cut into straight-line sections.

Files of a kernel in the folder of --xla_jf_dump_to (libtpu 0.0.42):

    *-packed-bundles-post-ra                             a bundle a line, empty ones too
    *-pre-delay_hlo-static-per-bundle-utilization        slots that each of those bundles fills
    *-schedule-analysis_packed-bundles-post-ra           the HLO instruction that it was made of
    *-original                                           memory, with what each piece is for
    *-post-bundle-packing-post-ra                        memory for registers that were spilled

Later files fold empty bundles into delays and would count too few cycles.

A bundle is a cycle of issue. Waiting for DMA, for HBM, for another core is not in it: counts are
lower bounds of time.
"""

import dataclasses
import itertools
import pathlib
import re

# Instructions that still run after a branch.
_DELAY = 4
_GRANULE = 32
_BUNDLE = re.compile(r"^ *(?:0x)?([0-9a-f]+) +(?:[A-Z]{2})? *: ([> ]*)\{", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel (\(.*?\) )?target bundleno = (\d+)")
_PIECE = re.compile(r"#(allocation\w+) \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)")


class UnreadableDump(ValueError):
    """The compiler's files are not as this reader knows them."""


@dataclasses.dataclass(frozen=True)
class Section:
    """Bundles that run one after the other, with no branch among them.

    Attributes:
      start: number of the first bundle.
      cycles: bundles.
      loop: first bundle of the innermost loop around it, or -1.
      conditional: whether a branch may go around it.
      used: how often each slot was filled.
      pushes: weights pushed into matrix units.
      bytes_in: copied from HBM by the DMAs that start here, where their size is fixed.
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
    """A kernel's whole schedule.

    Attributes:
      name: of its HLO instruction, without the number behind it.
      slots: how many instructions of each kind fit a bundle.
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
    """Every Pallas kernel of a dump, in the order of compilation; TLP is the program around them.

    Raises:
      UnreadableDump: the files are not as expected.
    """
    ending = "-schedule-analysis_packed-bundles-post-ra.txt"
    found = []
    for path in sorted(folder.glob(f"*{ending}")):
        stem = re.sub(r"-\d+$", "", path.name.removesuffix(ending))
        if "tpu_custom_call" in path.read_text() and not stem.endswith("-TLP"):
            found.append(_read(folder, stem))
    return found


def _read(folder: pathlib.Path, stem: str) -> Listing:
    bundles = _split(_file(folder, stem, "packed-bundles-post-ra"))
    slots, filled = _slots(_file(folder, stem, "pre-delay_hlo-static-per-bundle-utilization"))
    if len(bundles) != len(filled):
        raise UnreadableDump(
            f"{stem}: {len(bundles)} bundles, but what fills {len(filled)} of them"
        )
    pieces = dict(_PIECE.findall(_file(folder, stem, "original")))
    after = dict(_PIECE.findall(_file(folder, stem, "post-bundle-packing-post-ra")))
    spilled = sum(int(size, 16) for name, size in after.items() if name.endswith("_spill"))
    return Listing(
        name=re.sub(r"^\d+-|\.\d+$", "", stem),
        slots=slots,
        sections=tuple(_sections(bundles, slots, filled)),
        vmem=sum(int(size, 16) for size in pieces.values()) + spilled,
        spilled=spilled,
    )


def _file(folder: pathlib.Path, stem: str, kind: str) -> str:
    found = [
        path
        for path in folder.iterdir()
        if re.fullmatch(re.escape(stem) + rf"-\d+-{re.escape(kind)}\.txt", path.name)
    ]
    if len(found) != 1:
        raise UnreadableDump(f"{folder} holds {len(found)} files {stem}-*-{kind}.txt, expected one")
    return found[0].read_text()


def _split(text: str) -> list[str]:
    """The text of each bundle; comments may hold line breaks."""
    starts = list(_BUNDLE.finditer(text))
    for number, start in enumerate(starts):
        if int(start[1], 16) != number:
            raise UnreadableDump(f"bundle {number} is called {start[1]}")
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return [text[start.end() : end] for start, end in zip(starts, ends, strict=True)]


def _slots(text: str) -> tuple[dict[str, int], list[list[int]]]:
    """How many instructions of each kind a bundle holds, and those of each bundle."""
    lines = text.splitlines()
    names = [name.strip() for name in lines[1].split(",")]
    rows = [[int(number) for number in line.split()] for line in lines[4:] if line.strip()]
    return dict(zip(names, map(int, lines[2].split()), strict=True)), rows


def _sections(bundles: list[str], slots: dict[str, int], filled: list[list[int]]):
    loops, skipped, cuts = [], [], {0}
    for number, text in enumerate(bundles):
        for predicate, goal in _BRANCH.findall(text):
            target, after = int(goal), number + _DELAY + 1
            cuts |= {target, after}
            if target <= number:
                loops.append((target, after))
            elif predicate:
                skipped.append((after, target))
    # Without a branch to follow, a section goes on to the next place that one leads to.
    edges = [*sorted(cut for cut in cuts if cut < len(bundles)), len(bundles)]
    for start, end in itertools.pairwise(edges):
        around = [loop for loop in loops if loop[0] <= start < loop[1]]
        totals = [sum(column) for column in zip(*filled[start:end], strict=True)]
        instructions = [one for text in bundles[start:end] for one in text.split(";;")]
        yield Section(
            start=start,
            cycles=end - start,
            loop=max((first for first, _ in around), default=-1),
            conditional=any(first <= start and end <= last for first, last in skipped),
            used=dict(zip(slots, totals, strict=True)),
            pushes=sum("= vmatpush" in one for one in instructions),
            bytes_in=_copied(instructions, "hbm_to_vmem"),
            bytes_out=_copied(instructions, "vmem_to_hbm"),
        )


def _copied(instructions: list[str], way: str) -> int:
    granules = 0
    for one in instructions:
        if re.match(rf"\s*%\d+ = dma\.{way}\b", one):
            size = re.search(r"size_in_granules=\*/(\d+)", one)
            granules += int(size[1]) if size else 0
    return granules * _GRANULE
