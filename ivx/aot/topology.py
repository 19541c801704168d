"""Topologies by name, such as v6e:16x16, and their devices in a compiling process."""

import math
import re

from ivx.aot import chips
from ivx.errors import UserError


def parse(name: str) -> tuple[chips.Chip, tuple[int, ...]]:
    """The chip and the sides of a topology.

    Raises:
      UserError: the name is not a topology, or not one of full hosts.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match:
        raise UserError(
            f"{name!r} is not a topology; write chip:sides, as in v6e:16x16 or v5p:4x4x4"
        )
    chip = chips.chip(match[1])
    sides = tuple(int(side) for side in match[2].split("x"))
    if len(sides) != chip.axes:
        raise UserError(
            f"{name}: a topology of {chip.name} has {chip.axes} sides, not {len(sides)}"
        )
    if any(side % 2 for side in sides[:2]) or not all(sides):
        raise UserError(
            f"{name}: a host of {chip.name} has 2x2 chips, so the first two sides must be even;"
            f" {chip.smallest} is the smallest"
        )
    return chip, sides


def size(name: str) -> int:
    """The number of JAX devices of a topology.

    Raises:
      UserError: as `parse`.
    """
    chip, sides = parse(name)
    return math.prod(sides) * chip.devices


def devices(name: str) -> list:
    """Devices to compile for, which run nothing; call this in a compiling process only."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
