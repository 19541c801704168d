"""Which implementation of an op runs: its Pallas kernel on a TPU, its XLA form anywhere else.

Tests and ahead-of-time compilation force one, with `interpret` to run a kernel on a CPU. What is
forced is part of the key under which `jax.jit` keeps what it compiled.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
from absl import logging

IMPLEMENTATIONS = ("tpu", "xla")


class _Forced(NamedTuple):
    implementation: str | None = None
    interpret: object = False


_forced = jax.make_user_context(_Forced())
# Ops whose choice has been told.
_told: set[tuple[str, str, str]] = set()


@contextlib.contextmanager
def force(implementation: str, interpret: object = False) -> Iterator[None]:
    """Within it every op that has a kernel runs `implementation`.

    Args:
      implementation: "tpu" or "xla".
      interpret: what `pallas_call` gets: False compiles, True or a `pltpu.InterpretParams` run
        kernels on a CPU.

    Raises:
      ValueError: no such implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}"
        )
    with _forced(_Forced(implementation, interpret)):
        yield


def wanted() -> str:
    """What ops run that have a kernel for their shapes."""
    return _forced.value.implementation or ("tpu" if jax.default_backend() == "tpu" else "xla")


def pick(op: str, tpu: bool, constraint: str = "") -> str:
    """The implementation of `op` to run, "tpu" or "xla"; told once for each op and reason.

    Args:
      op: name of its folder.
      tpu: whether its kernel takes these shapes.
      constraint: what of the shapes it does not take, for the warning.
    """
    chosen = wanted() if tpu else "xla"
    reason = constraint if chosen != wanted() else ""
    if (op, chosen, reason) not in _told:
        _told.add((op, chosen, reason))
        if chosen != wanted():
            logging.warning(
                "%s: the TPU kernel does not take these shapes (%s); XLA runs instead",
                op,
                constraint or "unstated",
            )
        else:
            logging.info("%s: %s", op, "Pallas kernel" if chosen == "tpu" else "XLA")
    return chosen


def interpret() -> object:
    """What `pallas_call` gets as `interpret`."""
    return _forced.value.interpret
