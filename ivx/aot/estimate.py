"""A modelled time of a training step, from what the compiler says; nothing of it was timed.

    cycles    XLA's estimate for fusions, products and copies, over the clock of a core
    kernels   FLOPs of the Pallas kernels, over the peak at the share that is assumed for them
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
    found: Program, chip: Chip, devices: int, parts: dict[str, float], share: float
) -> Estimate:
    """A step's time.

    Args:
      found: the program of a device.
      chip: its generation.
      devices: how many.
      parts: useful FLOPs of the step, by part, over all devices.
      share: of the peak that Pallas kernels are assumed to reach.
    """
    exchange = {}
    for one in found.collectives:
        # A ring goes both ways.
        seconds = one.bytes / (2 * chip.link)
        exchange[one.axes] = exchange.get(one.axes, 0.0) + seconds
    return Estimate(
        cycles=found.cycles / chip.clock,
        kernels=kernel_flops(found.kernels, parts) / (devices * chip.peak * share),
        exchange=exchange,
        useful=sum(parts.values()),
        peak=devices * chip.peak,
    )


def kernel_flops(kernels: dict[str, int], parts: dict[str, float]) -> float:
    """FLOPs that the Pallas kernels of a step do, what they make again among them."""
    total = 0.0
    for part, factors in KERNELS.items():
        once = kernels.get(next(name for name in factors if name.endswith(("keys", "dkv"))), 0)
        if once:
            done = sum(factor * kernels.get(name, 0) for name, factor in factors.items())
            # Useful FLOPs are a forward pass and twice that.
            total += parts[part] / 3 * done / once
    return total
