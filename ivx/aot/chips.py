"""Generations of TPU: what their makers say of them. Nothing here was measured.

Source: Google Cloud documentation, pages "TPU v5e", "TPU v5p", "TPU v6e", "TPU7x" (peak compute,
HBM, bidirectional ICI a chip). Memory is what the allocator of libtpu 0.0.42 leaves to a program,
read from its refusals. Clocks follow from the peaks and from the matrix units:

    peak = cores * units * side^2 * 2 * rows * clock      rows: 1 before v6e, 2 from v6e on

`rows`, how many rows a unit takes in a cycle, is inferred: with 2 the units of v6e reach their
published peak at the clock of v5p, and the compiler counts half a cycle a row.

A device is what JAX calls one: a chip, of tpu7x half a chip. A v5p device has two cores, each with
half the bandwidth, and a kernel's schedule is that of one core.
"""

import dataclasses

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Numbers of a generation, for a device.

    Attributes:
      name: as topologies call it.
      devices: of a chip.
      cores: of a device.
      peak: FLOPs a second in bfloat16.
      narrow_peak: operations a second in int8, where there is no int8 in float8.
      bandwidth: bytes a second from HBM.
      memory: bytes of HBM for a program.
      units: matrix units of a core.
      side: rows and columns of a unit.
      rows: that a unit takes in a cycle.
      vmem: bytes of a core.
      link: bytes a second and direction of an ICI link.
      axes: of the torus, each with two links.
      smallest: the smallest topology, a host.
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
        """Cycles a second."""
        return self.peak / (self.cores * self.flops_a_cycle)

    @property
    def flops_a_cycle(self) -> float:
        """Of a core, in bfloat16."""
        return self.units * self.side**2 * 2 * self.rows

    @property
    def core_bandwidth(self) -> float:
        """Bytes a second that a core gets when all work."""
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
      UserError: there is none of this name.
    """
    if name not in CHIPS:
        raise UserError(f"ivx knows no chip {name!r}; there are {', '.join(CHIPS)}")
    return CHIPS[name]
