"""A modelled time of a training step, from what the compiler says; nothing of it was timed.

    cycles    XLA's estimate for fusions, products and copies, over the clock of a core
    kernels   FLOPs of the Pallas kernels, over the peak at the pace that is assumed for them
    exchange  bytes that a device sends along each choice of mesh axes, over the two links of one
              ring

    hidden    max(cycles + kernels, exchange): every exchange runs beside computation
    exposed   cycles + kernels + exchange: none does

The truth lies between, if the compiler's estimates hold and no host is late. XLA's estimates are of
a device, of v5p for both of its cores: 74,906 cycles for a product of 2,048^3, of which one core
alone would need 131,072.
"""

import dataclasses

from ivx.aot.chips import Chip
from ivx.aot.program import Program

# For each part, the FLOPs of its kernels over those of the forward one. Queries and keys of latent
# attention are twice as wide as values, those of the tower alike; both backward kernels make
# weights and their slopes again. The kernel of keys runs once for every useful forward pass.
KERNELS = {
    "attention": {
        "dense_attention": 1.0,
        "dense_attention_d_keys": (2 * 2 + 2 * 1) / 3,
        "dense_attention_d_queries": (2 * 2 + 1) / 3,
    },
    "vision attention": {
        "vision_attention": 1.0,
        "vision_attention_dkv": 4 / 2,
        "vision_attention_dq": 3 / 2,
    },
}
# FLOPs of both backward kernels over those of the forward one.
BACKWARD = {part: sum(list(factors.values())[1:]) for part, factors in KERNELS.items()}

# Share of the peak that a kernel's static schedule leaves, over all FLOPs that it does, of a visit
# without a mask: docs/kernels.md and docs/results/kernels_tpu.md, where five products of the seven
# that go backward are counted (8 of 11 in widths). v5e has the units of v5p; of tpu7x no schedule
# was read, and it is taken to be as v6e. Vision attention was read forward, of slices of 1,764.
_FORWARD = {"v5e": 0.93, "v5p": 0.938, "v6e": 0.667, "tpu7x": 0.667}
_BACKWARD = {"v5e": 0.935, "v5p": 0.925, "v6e": 0.628, "tpu7x": 0.628}
_VISION = {"v5e": 0.38, "v5p": 0.38, "v6e": 0.12, "tpu7x": 0.12}


# What is left of that pace for masks, for waiting, for blocks half in use.
PACE = 0.9


def kernel_share(chip: Chip, kernel: str, pace: float = PACE) -> float:
    """Share of the peak of a chip at which a kernel is taken to run."""
    if kernel.startswith("vision"):
        return pace * _VISION[chip.name]
    return pace * (_FORWARD if kernel == "dense_attention" else _BACKWARD)[chip.name]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step, and what they are of.

    Attributes:
      cycles: of what XLA estimates.
      kernels: of the Pallas kernels.
      exchange: of each choice of axes.
      useful: FLOPs of the step, over all devices.
      peak: FLOPs a second of all devices.
    """

    cycles: float
    kernels: float
    exchange: dict[str, float]
    useful: float
    peak: float

    @property
    def hidden(self) -> float:
        return max(self.cycles + self.kernels, sum(self.exchange.values()))

    @property
    def exposed(self) -> float:
        return self.cycles + self.kernels + sum(self.exchange.values())

    def utilisation(self, seconds: float) -> float:
        """Model FLOPs utilisation of a step of so many seconds."""
        return self.useful / (self.peak * seconds)


def estimate(
    found: Program, chip: Chip, devices: int, parts: dict[str, float], pace: float = PACE
) -> Estimate:
    """A step's time.

    Args:
      found: the program of a device.
      chip: its generation.
      devices: how many.
      parts: useful FLOPs of the step, by part, over all devices.
      pace: of Pallas kernels, over that of their schedules.
    """
    exchange = {}
    for one in found.collectives:
        # A ring goes both ways.
        seconds = one.bytes / (2 * chip.link)
        exchange[one.axes] = exchange.get(one.axes, 0.0) + seconds
    done = kernel_flops(found.kernels, parts)
    return Estimate(
        cycles=found.cycles / chip.clock,
        kernels=sum(
            flops / (devices * chip.peak * kernel_share(chip, name, pace))
            for name, flops in done.items()
        ),
        exchange=exchange,
        useful=sum(parts.values()),
        peak=devices * chip.peak,
    )


def kernel_flops(kernels: dict[str, int], parts: dict[str, float]) -> dict[str, float]:
    """FLOPs that each Pallas kernel of a step does, what they make again among them."""
    found = {}
    for part, factors in KERNELS.items():
        once = kernels.get(next(name for name in factors if name.endswith(("keys", "dkv"))), 0)
        # Useful FLOPs are a forward pass and twice that; without a backward pass, that alone.
        forward = parts[part] / 3 if once else parts[part]
        once = once or kernels.get(next(iter(factors)), 0)
        for name, factor in factors.items():
            if kernels.get(name):
                found[name] = forward * factor * kernels[name] / once
    return found
