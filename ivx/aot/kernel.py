"""Compiles a kernel case for a chip: `compile_case` asks, this module run by itself answers.

The child compiles with the schedule written to a temporary folder; the parent reads it. A refusal
of the compiler is a result like others, in its own words.
"""

import dataclasses
import pathlib
import tempfile

from ivx.aot import bundles, cases, child, chips, schedule
from ivx.kernels.case import KernelCase


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What became of a case on a chip.

    Attributes:
      case: what was compiled.
      chip: for which.
      refusal: of the compiler, in a sentence; empty where it compiled.
      seconds: that compiling took.
      temporaries: bytes of HBM besides arguments and results.
      xla_cycles: the compiler's estimate for everything but the kernels, in a call.
      unknown_loops: loops whose turns the compiler does not know, counted once.
      step: the hot one; None where no Pallas kernel was compiled.
    """

    case: KernelCase
    chip: chips.Chip
    refusal: str
    seconds: float = 0.0
    temporaries: int = 0
    xla_cycles: int = 0
    unknown_loops: int = 0
    step: schedule.CaseSchedule | None = None


def compile_case(module: str, case: KernelCase, chip: chips.Chip, seconds: float) -> Compiled:
    """Compiles a case, for at most so many seconds.

    Args:
      module: where `cases(chip)` gives it.
      case: one of them.
      chip: to compile for.
      seconds: to allow.

    Raises:
      UserError: there is no libtpu.
    """
    with tempfile.TemporaryDirectory(prefix="ivx-schedule-") as folder:
        dump = pathlib.Path(folder)
        asked = {"module": module, "case": case.name, "chip": chip.name}
        answer = child.ask("ivx.aot.kernel", asked, seconds, dump)
        if answer.refusal:
            return Compiled(case, chip, answer.refusal)
        try:
            listings = bundles.read(dump)
            judged = schedule.judge(case, chip, listings) if listings else None
        except Exception as error:  # of a dump that is not as expected, anything may be missing
            sentence = f"the schedule could not be read: {child.sentence(error)}"
            return Compiled(case, chip, sentence, **answer.found)
    return Compiled(case, chip, "", **answer.found, step=judged)


def _answer() -> None:
    """The child."""
    import time

    import jax
    import numpy as np

    from ivx.aot import program, topology

    asked = child.question()
    chip = chips.chip(asked["chip"])
    [case] = [one for one in cases.of(asked["module"], chip.name) if one.name == asked["case"]]
    mesh = jax.sharding.Mesh(np.array(topology.devices(chip.smallest)[:1]), ("one",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place) for one in case.arguments
    ]
    began = time.monotonic()
    try:
        lowered = jax.jit(case.build()).trace(*arguments).lower(lowering_platforms=("tpu",))
        compiled = lowered.compile()
    except Exception as error:  # whatever it is, it is the compiler's answer
        child.answer({"refusal": child.sentence(error)})
        return
    seconds, around = time.monotonic() - began, program.read(compiled.as_text(), {"one": 1})
    child.answer(
        {
            "seconds": seconds,
            "temporaries": compiled.memory_analysis().temp_size_in_bytes,
            "xla_cycles": around.cycles,
            "unknown_loops": around.unknown_loops,
        }
    )


if __name__ == "__main__":
    _answer()
