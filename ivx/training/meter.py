"""Throughput of a run: tokens, frames, data waits, goodput, memory, MFU.

    goodput = share of the time since this start that was spent in steps; compilation, restoring,
              data waits, validation and saving make up the rest

Counts are summed over hosts, so every host reports the same values. clu's periodic actions do part
of this, but `clu.periodic_actions` needs TensorFlow, which ivx does not install.
"""

import collections
import resource
import time

import jax

from data_pipelines.loader import LoadedBatch
from ivx import progress
from ivx.models.spec import ModelSpec
from ivx.parallel import across_hosts
from ivx.training import utilisation
from ivx.training.health.phases import Phases


class Meter:
    """Accumulates counts of the batches between two reports.

    Args:
      phases: of the loop.
      seen: tokens seen in earlier starts of the run.
      spec: of the model, for its FLOPs.
      counts: whether this host's packs count; false where another host reads the same packs.
    """

    def __init__(
        self, phases: Phases, seen: int, spec: ModelSpec | None = None, counts: bool = True
    ) -> None:
        self._phases, self._earlier, self._spec, self._counts = phases, seen, spec, counts
        self._peak = utilisation.peak(jax.devices()[0])
        self._causes = collections.Counter()
        self._total_tokens, self._total_seconds = 0, 0.0
        self._host_tokens = 0
        self._reset()

    def count(self, loaded: LoadedBatch) -> None:
        """Adds one batch."""
        self._steps += 1
        for name, value in loaded.metrics.items():
            self._metrics.setdefault(name, []).append(value)
        for reason in loaded.skipped:
            self._causes[reason.cause] += 1
            progress.note(f"skipped {reason}")
        if not self._counts:
            return
        tokens = int((loaded.batch.segments > 0).sum())
        self._tokens += tokens
        self._host_tokens += tokens
        self._frames += loaded.frames
        if self._peak and (flops := utilisation.useful(self._spec, loaded.batch)):
            self._gigaflops += round(flops / 1e9)

    @property
    def skipped(self) -> int:
        """Number of samples that this host skipped."""
        return self._causes.total()

    def seen(self) -> int:
        """Tokens seen by all hosts in all starts of the run; a collective call."""
        return self._earlier + int(across_hosts.total([self._host_tokens])[0])

    def read(self) -> dict[str, float]:
        """Metrics of the steps since the last call; a collective call."""
        seconds = time.monotonic() - self._since
        counts = [self._tokens, self._frames, self._host_tokens, self._gigaflops]
        tokens, frames, all_tokens, gigaflops = map(int, across_hosts.total(counts))
        waited = self._phases.seconds["data"] - self._waited
        metrics = {
            "tokens/seen": self._earlier + all_tokens,
            "tokens/sec": tokens / seconds,
            "frames/sec": frames / seconds,
            "step/ms": 1e3 * seconds / self._steps,
            "data/wait_ms": 1e3 * waited / self._steps,
            "data/skipped_samples": self.skipped,
            "goodput": self._phases.share("step"),
        }
        for cause, count in self._causes.items():
            metrics[f"data/skipped_samples/{cause.replace(' ', '_')}"] = count
        metrics |= memory()
        if gigaflops:
            metrics["mfu"] = 1e9 * gigaflops / (seconds * jax.device_count() * self._peak)
        metrics |= {name: sum(values) / len(values) for name, values in self._metrics.items()}
        self._total_tokens += tokens
        self._total_seconds += seconds
        self._reset()
        return metrics

    def mean_speed(self) -> float:
        """Tokens per second over the whole run, including validation and compilation."""
        return self._total_tokens / self._total_seconds if self._total_seconds else 0.0

    def _reset(self) -> None:
        self._since = time.monotonic()
        self._steps, self._tokens, self._frames, self._gigaflops = 0, 0, 0, 0
        self._waited = self._phases.seconds["data"]
        self._metrics: dict[str, list[float]] = {}


def memory() -> dict[str, float]:
    """Peak memory in GiB: of this process, and of its fullest device where that is reported."""
    # Linux reports KiB.
    peaks = {"memory/host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    return peaks | ({"memory/device_gib": max(used) / 2**30} if used else {})
