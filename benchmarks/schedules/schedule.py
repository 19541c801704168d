"""The schedule of a case: cycles of its hot step, slot use, and distance from the roofline.

    step       = sections that multiply in the innermost loop, and the loop around them
    compute    = useful FLOPs of the step / peak of a core
    hbm        = bytes of the step / bandwidth of a core
    schedule   = cycles of the step / clock
    bound      = max(compute, hbm): no schedule is faster
    modelled   = max(schedule, hbm): DMA overlaps with the schedule

A kernel may have two paths through a step, one with a mask and one without: sections that a branch
may skip and that do the same multiplications. The shorter one is the hot path.
"""

import dataclasses

from benchmarks.schedules.bundles import Listing, Section
from ivx.aot.chips import Chip
from ivx.kernels.case import KernelCase

# Paths with and without a mask multiply alike, up to small differences of the scheduler.
_ALIKE = 0.02
# The slot of the matrix units, and slots that are counted within others.
_MATRIX, _PARTS = "MXU", ("VLOAD:FILL", "VSTORE:SPILL")


@dataclasses.dataclass(frozen=True)
class KernelSchedule:
    """A hot step of one Pallas kernel.

    Attributes:
      name: of the kernel.
      counted: whether it is part of the hot step of its case.
      cycles: of the sections that multiply.
      around: cycles of the loop itself: next blocks, waiting, jumping back.
      sometimes: cycles of sections that only some steps run, such as the start and the end of a row
        of blocks.
      other_ways: cycles of the other paths through the step.
      matrix: fraction of the capacity of the matrix units in use.
      slots: the same for every kind of instruction.
      spills: registers stored and reloaded per step, for lack of registers.
      pushes: weights pushed into matrix units per step.
      copied: bytes that the DMAs of the loop copy if all of them run.
      vmem: bytes.
    """

    name: str
    counted: bool
    cycles: int
    around: int
    sometimes: int
    other_ways: tuple[int, ...]
    matrix: float
    slots: dict[str, float]
    spills: tuple[int, int]
    pushes: int
    copied: int
    vmem: int

    @property
    def bottleneck(self) -> str:
        """The kind of instruction that fills most of its slots; latency if none fills half."""
        fullest = max(self.slots, key=self.slots.get, default="")
        return fullest if self.slots.get(fullest, 0.0) >= 0.5 else "latency"


@dataclasses.dataclass(frozen=True)
class CaseSchedule:
    """A hot step of a case on a chip; times in seconds.

    Attributes:
      kernels: of the case.
      cycles: of the step, including the loop around it.
      compute: time at the peak of a core.
      hbm: time at the bandwidth of a core.
      schedule: time of the cycles.
      done: FLOPs of the matrix units in the step over useful FLOPs.
    """

    kernels: tuple[KernelSchedule, ...]
    cycles: int
    compute: float
    hbm: float
    schedule: float
    done: float

    @property
    def bound(self) -> float:
        """The roofline time."""
        return max(self.compute, self.hbm)

    @property
    def modelled(self) -> float:
        """The time of the schedule, or of HBM if that is longer."""
        return max(self.schedule, self.hbm)

    @property
    def useful(self) -> float:
        """Useful FLOPs over the FLOPs of the peak in the modelled time."""
        return self.compute / self.modelled if self.modelled else 0.0


def judge(case: KernelCase, chip: Chip, listings: list[Listing]) -> CaseSchedule:
    """The hot step of a case, from the schedules of its kernels."""
    counted = [listing for listing in listings if not case.kernels or listing.name in case.kernels]
    done = 0.0
    for paths in (True, False):
        # Sections that multiply alike may also be parts of one step. Then the step without one of
        # them would do fewer FLOPs than are useful.
        steps = {id(listing): _step(listing, paths, listing in counted) for listing in listings}
        busy = sum(steps[id(listing)][1] for listing in counted)
        done = busy * chip.side**2 * 2 * chip.rows / case.block_flops
        if done >= 0.95:
            break
    kernels = tuple(steps[id(listing)][0] for listing in listings)
    cycles = sum(kernel.cycles + kernel.around for kernel in kernels if kernel.counted)
    return CaseSchedule(
        kernels=kernels,
        cycles=cycles,
        compute=case.block_flops / (chip.peak / chip.cores),
        hbm=case.block_bytes / chip.core_bandwidth,
        schedule=cycles / chip.clock,
        done=done,
    )


def _step(listing: Listing, paths: bool, counted: bool) -> tuple[KernelSchedule, int]:
    """A hot step, and the busy cycles of its matrix units, summed over them.

    Args:
      listing: of the kernel.
      paths: whether sections that multiply alike are alternative paths.
      counted: whether the kernel is part of the hot step of its case.
    """
    busiest = max(listing.sections, key=lambda section: section.used[_MATRIX])
    inside = [section for section in listing.sections if section.loop == busiest.loop]
    multiplying = [section for section in inside if section.used[_MATRIX]]
    hot, others = _shortest_path(multiplying) if paths else (multiplying, [])
    rest = [section for section in inside if section not in multiplying]
    rare = [section for section in rest if section.conditional and _works(section)]
    cycles = sum(section.cycles for section in hot)
    shares = {
        slot: sum(section.used[slot] for section in hot) / (cycles * room)
        for slot, room in listing.slots.items()
        if cycles and slot not in _PARTS
    }
    busy = sum(section.used[_MATRIX] for section in hot)
    return KernelSchedule(
        name=listing.name,
        counted=counted,
        cycles=cycles,
        around=sum(section.cycles for section in rest if section not in rare),
        sometimes=sum(section.cycles for section in rare),
        other_ways=tuple(section.cycles for section in others),
        matrix=shares.get(_MATRIX, 0.0),
        slots=shares,
        spills=tuple(sum(section.used[part] for section in hot) for part in reversed(_PARTS)),
        pushes=sum(section.pushes for section in hot),
        copied=sum(section.bytes_in + section.bytes_out for section in inside),
        vmem=listing.vmem,
    ), busy


def _shortest_path(sections: list[Section]) -> tuple[list[Section], list[Section]]:
    """Keeps the shortest of conditional sections that multiply alike; returns the others too."""
    hot, others = [], []
    for section in sorted(sections, key=lambda section: section.cycles):
        work = section.used[_MATRIX]
        twin = section.conditional and any(
            other.conditional and abs(other.used[_MATRIX] - work) <= _ALIKE * work for other in hot
        )
        (others if twin else hot).append(section)
    return hot, others


def _works(section: Section) -> bool:
    """Whether a section computes on vectors, and not only controls the loop."""
    return any(section.used[slot] for slot in ("VALU", "VSTORE", "EUP"))
