"""The device that a bench runs on: its name, how fast it reads memory, and how to time it."""

import functools
from collections.abc import Callable, Mapping

import jax

from ivx.aot.chips import CHIPS
from ivx.commands.bench import timing
from ivx.parallel.compiler import KINDS

# Bytes a second, of NVIDIA's data sheets ("H100 Tensor Core GPU", SXM; "H200 Tensor Core GPU").
_GPUS = {"NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA H200": 4.8e12}
# Calls of one turn: queued up, so that a device need not wait for Python between two of them.
_CALLS = 20


def name() -> str:
    """What JAX calls the device."""
    return jax.devices()[0].device_kind


def bandwidth() -> float | None:
    """Bytes a second from its memory, as its maker says; None where ivx does not know."""
    generation = KINDS.get(name())
    return CHIPS[generation].bandwidth if generation else _GPUS.get(name())


def take_turns(
    contestants: Mapping[str, Callable[[], jax.Array]], repeats: int
) -> dict[str, timing.Times]:
    """As `timing.take_turns`, a contestant returning an array that need not be there yet.

    On a CPU a call is timed by itself, elsewhere a queue of them, by its share.
    """
    cpu = jax.default_backend() == "cpu"
    calls = 1 if cpu else _CALLS
    turns = {key: functools.partial(_queue, work, calls) for key, work in contestants.items()}
    times = timing.take_turns(turns, repeats, pause=0.2 if cpu else 0.0)
    return {
        key: timing.Times(tuple(turn / calls for turn in found.turns))
        for key, found in times.items()
    }


def _queue(work: Callable[[], jax.Array], calls: int) -> None:
    """Calls it so often, and waits for the last: a device works in order."""
    for _ in range(calls):
        out = work()
    out.block_until_ready()
