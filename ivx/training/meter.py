"""What a run reports of its pace: tokens, frames, waiting, goodput, memory.

    goodput = share of the time since this start that went into steps; compiling, restoring, waiting
              for data, validation and saving are the rest

Hosts add up what they read, so that every host reports the same.
"""

import collections
import resource
import time

import jax

from data_pipelines.loader import Loaded
from ivx.models.spec import ModelSpec
from ivx.parallel import over_hosts
from ivx.training import progress, utilisation
from ivx.training.phases import Phases


class Meter:
    """Counts what batches hold.

    Args:
      phases: of the loop.
      seen: tokens of earlier starts of the run.
      spec: of the model, for its FLOPs.
      counts: whether the packs of this host count; not where another host reads the same.
    """

    def __init__(
        self, phases: Phases, seen: int, spec: ModelSpec | None = None, counts: bool = True
    ):
        self._phases, self._earlier, self._spec, self._counts = phases, seen, spec, counts
        self._peak = utilisation.peak(jax.devices()[0])
        self._causes = collections.Counter()
        self._tokens_in_all, self._seconds_in_all = 0, 0.0
        self._own = 0
        self._reset()

    def count(self, loaded: Loaded) -> None:
        """Takes note of a batch."""
        self._steps += 1
        for name, value in loaded.numbers.items():
            self._numbers.setdefault(name, []).append(value)
        for sentence in loaded.skipped:
            self._causes[sentence.cause] += 1
            progress.note(f"skipped {sentence}")
        if not self._counts:
            return
        tokens = int((loaded.batch.segments > 0).sum())
        self._tokens += tokens
        self._own += tokens
        self._frames += loaded.frames
        if self._peak and (flops := utilisation.useful(self._spec, loaded.batch)):
            self._gigaflops += round(flops / 1e9)

    @property
    def skipped(self) -> int:
        """Samples of this host that were left out."""
        return self._causes.total()

    def seen(self) -> int:
        """Tokens of all starts of a run and all hosts, which have to ask together."""
        return self._earlier + int(over_hosts.total([self._own])[0])

    def read(self) -> dict[str, float]:
        """Numbers of the steps since the last reading; all hosts have to ask."""
        seconds = time.monotonic() - self._since
        counts = [self._tokens, self._frames, self._own, self._gigaflops]
        tokens, frames, own, gigaflops = map(int, over_hosts.total(counts))
        waited = self._phases.seconds["data"] - self._waited
        numbers = {
            "tokens/seen": self._earlier + own,
            "tokens/sec": tokens / seconds,
            "frames/sec": frames / seconds,
            "step/ms": 1e3 * seconds / self._steps,
            "data/wait_ms": 1e3 * waited / self._steps,
            "data/skipped_samples": self.skipped,
            "goodput": self._phases.share("step"),
        }
        for cause, count in self._causes.items():
            numbers[f"data/skipped_samples/{cause.replace(' ', '_')}"] = count
        numbers |= memory()
        if gigaflops:
            numbers["mfu"] = 1e9 * gigaflops / (seconds * jax.device_count() * self._peak)
        numbers |= {name: sum(values) / len(values) for name, values in self._numbers.items()}
        self._tokens_in_all += tokens
        self._seconds_in_all += seconds
        self._reset()
        return numbers

    def mean_speed(self) -> float:
        """Tokens a second over the whole run, validation and compilation counted in."""
        return self._tokens_in_all / self._seconds_in_all if self._seconds_in_all else 0.0

    def _reset(self) -> None:
        self._since = time.monotonic()
        self._steps, self._tokens, self._frames, self._gigaflops = 0, 0, 0, 0
        self._waited = self._phases.seconds["data"]
        self._numbers: dict[str, list[float]] = {}


def memory() -> dict[str, float]:
    """High-water marks in GiB: of this process, and of its fullest device where devices tell."""
    # Linux counts in KiB.
    peaks = {"memory/host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return peaks | ({"memory/device_gib": max(used) / 2**30} if used else {})
