"""Topologies by name, such as v6e:16x16: in a compiling process, their devices."""

import math
import re

from ivx.aot import chips
from ivx.errors import UserError


def parse(name: str) -> tuple[chips.Chip, tuple[int, ...]]:
    """The chip and the sides of a topology.

    Raises:
      UserError: it is none, or one without whole hosts.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found:
        raise UserError(f"{name!r} is no topology; write chip:sides, as in v6e:16x16 or v5p:4x4x4")
    chip = chips.chip(found[1])
    sides = tuple(int(side) for side in found[2].split("x"))
    if len(sides) != chip.axes:
        raise UserError(
            f"{name}: a topology of {chip.name} has {chip.axes} sides, not {len(sides)}"
        )
    if any(side % 2 for side in sides[:2]) or not all(sides):
        raise UserError(
            f"{name}: hosts of {chip.name} are compiled for as 2x2 chips,"
            f" so that the first two sides must be even; {chip.smallest} is the smallest"
        )
    return chip, sides


def size(name: str) -> int:
    """Devices of a topology, as JAX counts them.

    Raises:
      UserError: as `parse`.
    """
    chip, sides = parse(name)
    return math.prod(sides) * chip.devices


def devices(name: str) -> list:
    """Devices that can be compiled for and nothing else; only in a compiling process."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
