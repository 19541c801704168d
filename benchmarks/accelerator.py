"""The device under test: its name, its memory bandwidth, and how to time it."""

import functools
from collections.abc import Callable, Mapping

import jax

from benchmarks import timing
from ivx.aot.chips import CHIPS
from ivx.parallel.compiler import KINDS

# Bytes a second, from NVIDIA's data sheets ("H100 Tensor Core GPU", SXM; "H200 Tensor Core GPU").
_GPUS = {"NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA H200": 4.8e12}
# Calls per turn, queued so that the device does not wait for Python between two of them.
_CALLS = 20


def name() -> str:
    """The device kind in JAX."""
    return jax.devices()[0].device_kind


def bandwidth() -> float | None:
    """Memory bandwidth in bytes a second, by the vendor; None if ivx does not know it."""
    generation = KINDS.get(name())
    return CHIPS[generation].bandwidth if generation else _GPUS.get(name())


def take_turns(
    contestants: Mapping[str, Callable[[], jax.Array]], repeats: int
) -> dict[str, timing.Times]:
    """Like `timing.take_turns`, for contestants that return an array before it is ready.

    On a CPU single calls are timed, elsewhere the mean of a queue of calls.
    """
    cpu = jax.default_backend() == "cpu"
    calls = 1 if cpu else _CALLS
    turns = {key: functools.partial(_queue, work, calls) for key, work in contestants.items()}
    times = timing.take_turns(turns, repeats, pause=0.2 if cpu else 0.0)
    return {
        key: timing.Times(tuple(seconds / calls for seconds in measured.turns))
        for key, measured in times.items()
    }


def _queue(work: Callable[[], jax.Array], calls: int) -> None:
    """Queues calls and waits for the last one; a device works in order."""
    for _ in range(calls):
        out = work()
    out.block_until_ready()
