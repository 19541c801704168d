"""What a schedule says of a case: cycles of a hot step, what fills them, how far from the roofline.

    step       = sections that multiply in the innermost loop, and what goes around them
    compute    = useful FLOPs of the step / peak of a core
    hbm        = bytes of the step / bandwidth of a core
    schedule   = cycles of the step / clock
    bound      = max(compute, hbm): no schedule is faster
    modelled   = max(schedule, hbm): DMA runs beside the schedule

A kernel may have two ways through a step, one with a mask and one without: sections that a branch
may skip and that multiply alike. The shorter is the hot one.
"""

import dataclasses

from ivx.aot.bundles import Listing, Section
from ivx.aot.chips import Chip
from ivx.kernels.case import KernelCase

# A mask changes nothing in the multiplications; a little is left to the scheduler.
_ALIKE = 0.02
# The slot of the matrix units, and slots that count what others count already.
_MATRIX, _PARTS = "MXU", ("VLOAD:FILL", "VSTORE:SPILL")


@dataclasses.dataclass(frozen=True)
class KernelSchedule:
    """A hot step of one Pallas kernel.

    Attributes:
      name: of the kernel.
      counted: whether it is part of the hot step of its case.
      cycles: of the sections that multiply.
      around: cycles of the loop's own work: next blocks, waiting, jumping back.
      sometimes: cycles of what only some steps do, such as beginning and ending a row of blocks.
      other_ways: cycles of the other ways through the step.
      matrix: share of the capacity of the matrix units that is filled.
      slots: the same for every kind of instruction.
      spills: registers stored and loaded again for want of registers, in a step.
      pushes: weights pushed into matrix units in a step.
      copied: bytes that DMAs of the loop copy when all of them run.
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
        """The kind of instruction whose slots are fullest; latency where none are half full."""
        fullest = max(self.slots, key=self.slots.get, default="")
        return fullest if self.slots.get(fullest, 0.0) >= 0.5 else "latency"


@dataclasses.dataclass(frozen=True)
class CaseSchedule:
    """A hot step of a case on a chip; times in seconds.

    Attributes:
      kernels: of the case.
      cycles: of the step, with what goes around it.
      compute: at the peak of a core.
      hbm: at the bandwidth of a core.
      schedule: by the cycles.
      done: FLOPs that the matrix units do in the step over the useful ones.
    """

    kernels: tuple[KernelSchedule, ...]
    cycles: int
    compute: float
    hbm: float
    schedule: float
    done: float

    @property
    def bound(self) -> float:
        """The least time that the chip allows."""
        return max(self.compute, self.hbm)

    @property
    def modelled(self) -> float:
        """The time that the schedule allows."""
        return max(self.schedule, self.hbm)

    @property
    def useful(self) -> float:
        """Useful FLOPs over those of the peak in the time modelled."""
        return self.compute / self.modelled if self.modelled else 0.0


def judge(case: KernelCase, chip: Chip, listings: list[Listing]) -> CaseSchedule:
    """The hot step of a case, from the schedules of its kernels."""
    counted = [one for one in listings if not case.kernels or one.name in case.kernels]
    done = 0.0
    for ways in (True, False):
        # Sections that multiply alike may also be parts of one step: then, with one of them left
        # out, less would be done than is useful.
        steps = {id(one): _step(one, ways, one in counted) for one in listings}
        busy = sum(steps[id(one)][1] for one in counted)
        done = busy * chip.side**2 * 2 * chip.rows / case.block_flops
        if done >= 0.95:
            break
    kernels = tuple(steps[id(one)][0] for one in listings)
    cycles = sum(kernel.cycles + kernel.around for kernel in kernels if kernel.counted)
    return CaseSchedule(
        kernels=kernels,
        cycles=cycles,
        compute=case.block_flops / (chip.peak / chip.cores),
        hbm=case.block_bytes / chip.core_bandwidth,
        schedule=cycles / chip.clock,
        done=done,
    )


def _step(listing: Listing, ways: bool, counted: bool) -> tuple[KernelSchedule, int]:
    """A hot step, and how long its matrix units are busy, summed over them."""
    busiest = max(listing.sections, key=lambda section: section.used[_MATRIX])
    inside = [section for section in listing.sections if section.loop == busiest.loop]
    multiplying = [section for section in inside if section.used[_MATRIX]]
    hot, others = _shortest_ways(multiplying) if ways else (multiplying, [])
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


def _shortest_ways(sections: list[Section]) -> tuple[list[Section], list[Section]]:
    """Of sections that multiply alike and may be skipped, the shortest; and the others."""
    hot, others = [], []
    for section in sorted(sections, key=lambda section: section.cycles):
        work = section.used[_MATRIX]
        twin = section.conditional and any(
            other.conditional and abs(other.used[_MATRIX] - work) <= _ALIKE * work for other in hot
        )
        (others if twin else hot).append(section)
    return hot, others


def _works(section: Section) -> bool:
    """Whether it computes on vectors, and not only looks after the loop."""
    return any(section.used[slot] for slot in ("VALU", "VSTORE", "EUP"))
