"""Lowers and compiles kernel cases for a chip, in child processes that run this module.

`compile_case` compiles one case; the compiler dumps the schedule to a temporary folder, and the
parent reads it. A refusal of the compiler is a result, in the compiler's words. `lower_cases`
lowers many cases in one child, in about a second each, for their digests.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from benchmarks.schedules import bundles, cases, schedule
from ivx.aot import child, chips, lowered, program, topology
from ivx.kernels.case import KernelCase

_MODULE = "benchmarks.schedules.compiled_case"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The outcome of compiling a case for a chip.

    Attributes:
      case: the compiled case.
      chip: the target.
      refusal: the compiler's refusal in one sentence; empty if it compiled.
      seconds: compile time.
      temporaries: bytes of HBM besides arguments and results.
      xla_cycles: the compiler's estimate for everything but the kernels, per call.
      unknown_loops: loops of unknown trip count, counted once.
      step: schedule of the hot step; None if there is no Pallas kernel.
      lowered: digest of the lowered program; empty if it did not lower.
    """

    case: KernelCase
    chip: chips.Chip
    refusal: str
    seconds: float = 0.0
    temporaries: int = 0
    xla_cycles: int = 0
    unknown_loops: int = 0
    step: schedule.CaseSchedule | None = None
    lowered: str = ""


def compile_case(module: str, case: KernelCase, chip: chips.Chip, seconds: int | float) -> Compiled:
    """Compiles a case.

    Args:
      module: defines `cases(chip)`, which returns the case.
      case: to compile.
      chip: to compile for.
      seconds: time limit.

    Raises:
      UserError: there is no libtpu.
    """
    with tempfile.TemporaryDirectory(prefix="ivx-schedule-") as folder:
        dump = pathlib.Path(folder)
        question = {"module": module, "case": case.name, "chip": chip.name}
        answer = child.ask(_MODULE, question, seconds, dump)
        if answer.refusal:
            return Compiled(case, chip, answer.refusal, **answer.found)
        try:
            listings = bundles.read(dump)
            hot_step = schedule.judge(case, chip, listings) if listings else None
        except Exception as error:  # an unexpected dump can fail in any way
            sentence = f"the schedule could not be read: {child.sentence(error)}"
            return Compiled(case, chip, sentence, **answer.found)
    return Compiled(case, chip, "", **answer.found, step=hot_step)


def lower_cases(
    cells: Iterable[tuple[str, KernelCase, chips.Chip]], seconds: int | float
) -> dict[tuple[str, str], str]:
    """Digests of lowered cases.

    Args:
      cells: module, case and chip.
      seconds: time limit for each module.

    Returns:
      Digest by names of case and chip, without those that could not be lowered.

    Raises:
      UserError: there is no libtpu.
    """
    names: dict[str, list[tuple[str, str]]] = {}
    for module, case, chip in cells:
        names.setdefault(module, []).append((case.name, chip.name))
    digests = {}
    for module, pairs in names.items():
        answer = child.ask(_MODULE, {"module": module, "cells": pairs}, seconds)
        digests |= {(case, chip): digest for case, chip, digest in answer.found.get("lowered", ())}
    return digests


def _main() -> None:
    question = child.question()
    module = question["module"]
    if "cells" in question:
        child.answer({"lowered": _lower_all(module, question["cells"])})
    else:
        child.answer(_compile(module, question["case"], question["chip"]))


def _lower_all(module: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Names of case and chip with the digest, for every pair that lowers."""
    digests = []
    for case, chip in pairs:
        try:
            digests.append((case, chip, _digest(_lower(module, case, chip))))
        except Exception:  # compiling the case reports the reason
            continue
    return digests


def _compile(module: str, case: str, chip: str) -> dict:
    digest, began = "", time.monotonic()
    try:
        step = _lower(module, case, chip)
        digest = _digest(step)
        compiled = step.compile()
    except Exception as error:  # whatever it is, it is the compiler's answer
        return {"refusal": child.sentence(error), "lowered": digest}
    seconds, around = time.monotonic() - began, program.read(compiled.as_text(), {"one": 1})
    return {
        "seconds": seconds,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "xla_cycles": around.cycles,
        "unknown_loops": around.unknown_loops,
        "lowered": digest,
    }


def _lower(module: str, name: str, chip: str) -> jax.stages.Lowered:
    [case] = [case for case in cases.of(module, chip) if case.name == name]
    devices = topology.devices(chips.chip(chip).smallest)[:1]
    mesh = jax.sharding.Mesh(np.array(devices), ("one",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(argument.shape, argument.dtype, sharding=sharding)
        for argument in case.arguments
    ]
    return jax.jit(case.build()).trace(*arguments).lower(lowering_platforms=("tpu",))


def _digest(step: jax.stages.Lowered) -> str:
    return lowered.digest(step.as_text(), {})


if __name__ == "__main__":
    _main()
