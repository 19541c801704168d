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
from collections.abc import Mapping

from ivx.aot.chips import Chip
from ivx.aot.program import Program

# Heads of attention, and widths of their keys and of their values, in head_dim.
WIDTHS = {"latent": (2, 1), "grouped": (1, 1)}

# Cycles of a step, read from static schedules: forward, 2048 queries x 1024 keys of one head; and
# backward, 1024 x 1024. From docs/results/kernels_tpu.json, a visit without a mask.
CYCLES = {
    "latent": {
        "v5e": (12_734, 17_116),
        "v5p": (12_892, 17_096),
        "v6e": (4_216, 5_717),
        "tpu7x": (4_186, 6_492),
    },
    "grouped": {
        "v5e": (8_854, 10_948),
        "v5p": (8_835, 11_065),
        "v6e": (4_241, 5_540),
        "tpu7x": (4_087, 5_530),
    },
}
_FORWARD, _BACKWARD, _HEAD_DIM = 2048 * 1024, 1024 * 1024, 128
# Forward, most visits look at maxima besides: cycles read by hand of latent heads on v5p and v6e
# (docs/results/kernels_tpu.md, notes), and taken to be the same on chips with their units.
_CHECK = {"v5e": 172, "v5p": 172, "v6e": 231, "tpu7x": 231}
# Of vision attention: 256 queries x 256 keys of 16 heads, forward, and backward in both kernels.
VISION_CYCLES = {
    "v5e": (6_118, 13_465),
    "v5p": (6_195, 13_784),
    "v6e": (4_811, 8_601),
    "tpu7x": (4_696, 8_308),
}
_VISION = 256 * 256 * 16 * 72

# What is left of that pace for masks, for waiting, for blocks half in use.
PACE = 0.9


def factors(part: str, heads: str = "latent") -> dict[str, float]:
    """Kernels of a part of the model, with their FLOPs over those of the forward one, the first.

    Backward, scores and the slopes of weights are made again; by both kernels of the tower.
    """
    if part == "attention":
        keys, values = WIDTHS[heads]
        back = (3 * keys + 2 * values) / (keys + values)
        return {"dense_attention": 1.0, "dense_attention_backward": back}
    return {"vision_attention": 1.0, "vision_attention_dq": 3 / 2, "vision_attention_dkv": 4 / 2}


def kernels() -> set[str]:
    """Those whose pace is known."""
    return {name for part in ("attention", "vision attention") for name in factors(part)}


def backward(part: str, heads: str = "latent") -> float:
    """FLOPs of the backward kernels over those of the forward one."""
    return sum(factors(part, heads).values()) - 1


def kernel_share(chip: Chip, kernel: str, heads: str = "latent", pace: float = PACE) -> float:
    """Share of the peak of a chip at which a kernel is taken to run, over all FLOPs that it does.

    Args:
      chip: its generation.
      kernel: its name.
      heads: of dense attention: latent or grouped.
      pace: over that of the static schedule.
    """
    if kernel.startswith("vision"):
        forward, back = VISION_CYCLES[chip.name]
        products, cycles = (2, forward) if kernel == "vision_attention" else (3 + 4, back)
        return pace * 2 * products * _VISION / (cycles * chip.flops_a_cycle)
    keys, values = WIDTHS[heads]
    forward, back = CYCLES[heads][chip.name]
    if kernel == "dense_attention":
        done, cycles = _FORWARD * (keys + values), forward + _CHECK[chip.name]
    else:
        done, cycles = _BACKWARD * (3 * keys + 2 * values), back
    return pace * 2 * done * _HEAD_DIM / (cycles * chip.flops_a_cycle)


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


@dataclasses.dataclass(frozen=True)
class Load:
    """What a step has to do, over all devices.

    Attributes:
      parts: useful FLOPs by part, those of a teacher's forward pass as "teacher's ...".
      heads: of the model's attention: latent or grouped.
      taught: of "attention" and "vision attention", how often a step calls the forward kernel for
        the teacher.
      backward_calls: of dense attention's backward kernel, for one pass back: parts of the queries.
    """

    parts: Mapping[str, float]
    heads: str = "latent"
    taught: Mapping[str, int] = dataclasses.field(default_factory=dict)
    backward_calls: int = 1


@dataclasses.dataclass(frozen=True)
class KernelWork:
    """FLOPs of a kernel in a step, what it makes again among them; `heads` as in `Load`."""

    kernel: str
    heads: str
    flops: float


def estimate(found: Program, chip: Chip, devices: int, load: Load, pace: float = PACE) -> Estimate:
    """A step's time.

    Args:
      found: the program of a device.
      chip: its generation.
      devices: how many.
      load: of the step.
      pace: of Pallas kernels, over that of their schedules.
    """
    exchange = {}
    for one in found.collectives:
        # A ring goes both ways.
        seconds = one.bytes / (2 * chip.link)
        exchange[one.axes] = exchange.get(one.axes, 0.0) + seconds
    return Estimate(
        cycles=found.cycles / chip.clock,
        kernels=sum(
            one.flops / (devices * chip.peak * kernel_share(chip, one.kernel, one.heads, pace))
            for one in kernel_work(found.kernels, load)
        ),
        exchange=exchange,
        useful=sum(load.parts.values()),
        peak=devices * chip.peak,
    )


def kernel_work(kernels: Mapping[str, int], load: Load) -> list[KernelWork]:
    """What each Pallas kernel of a step does.

    Args:
      kernels: how often each is called.
      load: of the step.
    """
    found = []
    for part in ("attention", "vision attention"):
        done = factors(part, load.heads)
        first, *_, last = done
        calls, taught = dict(kernels), load.taught.get(part, 0)
        if taught and calls.get(first):
            # A teacher's pass forward is made once, and none back.
            found.append(KernelWork(first, "grouped", load.parts[f"teacher's {part}"]))
            calls[first] = max(calls[first] - taught, 0)
        if part == "attention" and last in calls:
            calls[last] = max(1, calls[last] // load.backward_calls)
        # The last runs once for every useful pass forward; where it does not there is no more.
        once = calls.get(last) or calls.get(first, 0)
        forward = load.parts[part] / (3 if calls.get(last) else 1)
        found += [
            KernelWork(name, load.heads, forward * factor * calls[name] / once)
            for name, factor in done.items()
            if calls.get(name)
        ]
    return found
