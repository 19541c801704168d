"""Estimates the time of a training step from the compiled program. Nothing was timed on a TPU.

    cycles    XLA's estimate for fusions, products and copies, over the clock of a core
    kernels   FLOPs of the Pallas kernels, over the peak at an assumed pace
    exchange  bytes that a device sends along each set of mesh axes, over the two links of one ring

    hidden    max(cycles + kernels, exchange): all exchanges overlap with computation
    exposed   cycles + kernels + exchange: none does

The real time lies between the two if the compiler's estimates hold and no host is late. XLA's
estimates are per device; for v5p they cover both cores: 74,906 cycles for a product of 2,048^3,
which would take one core 131,072.
"""

import dataclasses
from collections.abc import Mapping

from ivx.aot.chips import Chip
from ivx.aot.program import Program

# Kind of attention heads -> width of keys and of values, in units of head_dim.
WIDTHS = {"latent": (2, 1), "grouped": (1, 1)}

# Cycles of a grid step, read from static schedules: forward, 2048 queries x 1024 keys of one head;
# backward, 1024 x 1024. From benchmarks/results/kernels_tpu.json, for a block without a mask.
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
# Most forward blocks also check the running maximum: cycles read by hand for latent heads on v5p
# and v6e (docs/results/kernels_tpu.md, notes), and assumed equal on chips with the same units.
_CHECK = {"v5e": 172, "v5p": 172, "v6e": 231, "tpu7x": 231}
# Vision attention, 256 queries x 256 keys of 16 heads: forward, and both backward kernels.
VISION_CYCLES = {
    "v5e": (6_118, 13_465),
    "v5p": (6_195, 13_784),
    "v6e": (4_811, 8_601),
    "tpu7x": (4_696, 8_308),
}
_VISION = 256 * 256 * 16 * 72

# Share of that pace that is assumed, for masks, stalls and partly filled blocks.
PACE = 0.9


def factors(part: str, heads: str = "latent") -> dict[str, float]:
    """Kernels of a part of the model, with their FLOPs relative to the forward kernel, the first.

    The backward kernels recompute scores and the gradients of the weights; both kernels of the
    tower do.
    """
    if part == "attention":
        keys, values = WIDTHS[heads]
        back = (3 * keys + 2 * values) / (keys + values)
        return {"dense_attention": 1.0, "dense_attention_backward": back}
    return {"vision_attention": 1.0, "vision_attention_dq": 3 / 2, "vision_attention_dkv": 4 / 2}


def kernels() -> set[str]:
    """Names of the kernels with a known pace."""
    return {name for part in ("attention", "vision attention") for name in factors(part)}


def backward(part: str, heads: str = "latent") -> float:
    """FLOPs of the backward kernels relative to the forward kernel."""
    return sum(factors(part, heads).values()) - 1


def kernel_share(chip: Chip, kernel: str, heads: str = "latent", pace: float = PACE) -> float:
    """Assumed share of the peak of a chip that a kernel reaches, counting all FLOPs that it does.

    Args:
      chip: the generation.
      kernel: name of the kernel.
      heads: heads of dense attention: latent or grouped.
      pace: relative to the static schedule.
    """
    if kernel.startswith("vision"):
        forward, back = VISION_CYCLES[chip.name]
        products, cycles = (2, forward) if kernel == "vision_attention" else (3 + 4, back)
        return pace * 2 * products * _VISION / (cycles * chip.flops_a_cycle)
    keys, values = WIDTHS[heads]
    forward, back = CYCLES[heads][chip.name]
    if kernel == "dense_attention":
        work, cycles = _FORWARD * (keys + values), forward + _CHECK[chip.name]
    else:
        work, cycles = _BACKWARD * (3 * keys + 2 * values), back
    return pace * 2 * work * _HEAD_DIM / (cycles * chip.flops_a_cycle)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step, by origin.

    Attributes:
      cycles: seconds of XLA's estimated cycles.
      kernels: seconds of the Pallas kernels.
      exchange: seconds for each set of mesh axes.
      useful: FLOPs of the step, over all devices.
      peak: FLOP/s of all devices.
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
        """Model FLOPs utilisation of a step that takes `seconds`."""
        return self.useful / (self.peak * seconds)


@dataclasses.dataclass(frozen=True)
class Load:
    """The work of a step, over all devices.

    Attributes:
      parts: useful FLOPs by part; parts of a teacher's forward pass are named "teacher's ...".
      heads: heads of the model's attention: latent or grouped.
      taught: calls of the forward kernel for the teacher, for "attention" and "vision attention".
      backward_calls: calls of dense attention's backward kernel per backward pass: it runs once for
        each part of the queries.
    """

    parts: Mapping[str, float]
    heads: str = "latent"
    taught: Mapping[str, int] = dataclasses.field(default_factory=dict)
    backward_calls: int = 1


@dataclasses.dataclass(frozen=True)
class KernelWork:
    """FLOPs of a kernel in a step, including recomputed ones; `heads` as in `Load`."""

    kernel: str
    heads: str
    flops: float


def estimate(
    program: Program, chip: Chip, devices: int, load: Load, pace: float = PACE
) -> Estimate:
    """Estimates the time of a step.

    Args:
      program: the per-device program.
      chip: the generation.
      devices: device count.
      load: the work of the step.
      pace: pace of Pallas kernels relative to their schedules.
    """
    exchange = {}
    for collective in program.collectives:
        # A ring uses both directions.
        seconds = collective.bytes / (2 * chip.link)
        exchange[collective.axes] = exchange.get(collective.axes, 0.0) + seconds
    return Estimate(
        cycles=program.cycles / chip.clock,
        kernels=sum(
            work.flops / (devices * chip.peak * kernel_share(chip, work.kernel, work.heads, pace))
            for work in kernel_work(program.kernels, load)
        ),
        exchange=exchange,
        useful=sum(load.parts.values()),
        peak=devices * chip.peak,
    )


def kernel_work(kernels: Mapping[str, int], load: Load) -> list[KernelWork]:
    """The FLOPs of each Pallas kernel of a step.

    Args:
      kernels: calls of each kernel.
      load: the work of the step.
    """
    work = []
    for part in ("attention", "vision attention"):
        relative = factors(part, load.heads)
        first, *_, last = relative
        calls, taught = dict(kernels), load.taught.get(part, 0)
        if taught and calls.get(first):
            # The teacher runs forward once, and never backward.
            work.append(KernelWork(first, "grouped", load.parts[f"teacher's {part}"]))
            calls[first] = max(calls[first] - taught, 0)
        if part == "attention" and last in calls:
            calls[last] = max(1, calls[last] // load.backward_calls)
        # The last kernel runs once per useful forward pass; without it there is only that pass.
        passes = calls.get(last) or calls.get(first, 0)
        forward = load.parts[part] / (3 if calls.get(last) else 1)
        work += [
            KernelWork(name, load.heads, forward * factor * calls[name] / passes)
            for name, factor in relative.items()
            if calls.get(name)
        ]
    return work
