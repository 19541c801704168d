"""Selects the implementation of an op: the Pallas kernel on a TPU, XLA on any other backend.

Tests and ahead-of-time compilation force an implementation, and `interpret` runs a kernel on a CPU.
The forced implementation is part of the cache key of `jax.jit`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from absl import logging

# `bool | pltpu.InterpretParams`. Importing Pallas takes a second, and only TPUs and tests need it.
Interpret = Any

IMPLEMENTATIONS = ("tpu", "xla")


class _Forced(NamedTuple):
    implementation: str | None = None
    interpret: Interpret = False


_forced = jax.make_user_context(_Forced())
# (op, implementation, reason) of every choice that has been logged.
_logged: set[tuple[str, str, str]] = set()


@contextlib.contextmanager
def force(implementation: str, interpret: Interpret = False) -> Iterator[None]:
    """Makes every op that has a kernel use `implementation` inside the context.

    Args:
      implementation: "tpu" or "xla".
      interpret: the `interpret` argument of `pallas_call`: False compiles the kernel; True or a
        `pltpu.InterpretParams` runs it on a CPU.

    Raises:
      ValueError: the implementation is unknown.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}"
        )
    with _forced(_Forced(implementation, interpret)):
        yield


def preferred() -> str:
    """The implementation to use where the kernel supports the shapes: "tpu" or "xla"."""
    return _forced.value.implementation or ("tpu" if jax.default_backend() == "tpu" else "xla")


def pick(op: str, tpu: bool, constraint: str = "") -> str:
    """The implementation of `op` to run, "tpu" or "xla". Logs each op and reason once.

    Args:
      op: folder name of the op.
      tpu: whether the kernel supports these shapes.
      constraint: the constraint that the shapes violate, for the warning.
    """
    implementation = preferred() if tpu else "xla"
    reason = constraint if implementation != preferred() else ""
    if (op, implementation, reason) not in _logged:
        _logged.add((op, implementation, reason))
        if implementation != preferred():
            logging.warning(
                "%s: the TPU kernel does not support these shapes (%s), falling back to XLA",
                op,
                constraint or "unknown constraint",
            )
        else:
            logging.info("%s: %s", op, "Pallas kernel" if implementation == "tpu" else "XLA")
    return implementation


def interpret() -> Interpret:
    """The `interpret` argument of `pallas_call`."""
    return _forced.value.interpret
