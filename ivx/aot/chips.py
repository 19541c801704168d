"""TPU generations: their published specifications. Nothing here was measured.

Source: Google Cloud documentation, pages "TPU v5e", "TPU v5p", "TPU v6e", "TPU7x" (peak compute,
HBM, bidirectional ICI per chip). Memory is the part that the allocator of libtpu 0.0.42 leaves to a
program, read from its out-of-memory errors. Clocks follow from the peaks and the matrix units:

    peak = cores * units * side^2 * 2 * rows * clock      rows: 1 before v6e, 2 from v6e on

`rows`, the rows that a unit takes per cycle, is inferred: with 2, the units of v6e reach their
published peak at the clock of v5p, and the compiler counts half a cycle per row.

A device is what JAX calls one: a chip, or half a chip for tpu7x. A v5p device has two cores, each
with half the bandwidth, and the schedule of a kernel is that of one core.
"""

import dataclasses

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specifications of a generation, per device.

    Attributes:
      name: name in topologies.
      devices: devices per chip.
      cores: cores per device.
      peak: bfloat16 FLOP/s.
      narrow_peak: int8 operations per second; float8 where a chip has no int8.
      bandwidth: HBM bytes per second.
      memory: HBM bytes that a program can use.
      units: matrix units per core.
      side: rows and columns of a unit.
      rows: rows that a unit takes per cycle.
      vmem: VMEM bytes per core.
      link: bytes per second and direction of an ICI link.
      axes: axes of the torus, each with two links.
      smallest: the smallest topology, one host.
    """

    name: str
    devices: int
    cores: int
    peak: float
    narrow_peak: float
    bandwidth: float
    memory: int
    units: int
    side: int
    rows: int
    vmem: int
    link: float
    axes: int
    smallest: str

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak / (self.cores * self.flops_a_cycle)

    @property
    def flops_a_cycle(self) -> float:
        """bfloat16 FLOPs per cycle of a core."""
        return self.units * self.side**2 * 2 * self.rows

    @property
    def core_bandwidth(self) -> float:
        """HBM bytes per second of a core when all cores are busy."""
        return self.bandwidth / self.cores


_GIB = 2**30
_MIB = 2**20
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v5e", 1, 1, 197e12, 393e12, 819e9, int(15.75 * _GIB), 4, 128, 1, 128 * _MIB,
            50e9, 2, "v5e:2x2",
        ),
        Chip(
            "v5p", 1, 2, 459e12, 918e12, 2765e9, int(95.74 * _GIB), 4, 128, 1, 64 * _MIB,
            100e9, 3, "v5p:2x2x1",
        ),
        Chip(
            "v6e", 1, 1, 918e12, 1836e12, 1640e9, int(31.25 * _GIB), 2, 256, 2, 128 * _MIB,
            100e9, 2, "v6e:2x2",
        ),
        Chip(
            "tpu7x", 2, 1, 1153.5e12, 2307e12, 3690e9, int(94.75 * _GIB), 2, 256, 2, 64 * _MIB,
            100e9, 3, "tpu7x:2x2x1",
        ),
    )
}  # fmt: skip


def chip(name: str) -> Chip:
    """A generation by name.

    Raises:
      UserError: there is no such generation.
    """
    if name not in CHIPS:
        raise UserError(f"there is no chip {name!r}; chips are {', '.join(CHIPS)}")
    return CHIPS[name]
