"""Adds an estimated time to the result of a compilation, as plain values."""

from ivx.aot import chips, estimate, program, topology


def price(result: dict, pace: float) -> dict:
    """Adds `estimate` to a result whose program and FLOPs are known, and removes an old one.

    A program with kernels of earlier sources, whose pace is not known any more, gets none.

    Args:
      result: what `ivx.commands.compile.step.compile_step` returns; changed in place.
      pace: pace of Pallas kernels relative to their static schedules.
    """
    result.pop("estimate", None)
    if (
        result.get("flops")
        and result.get("program")
        and result["program"]["kernels"].keys() <= estimate.kernels()
    ):
        chip, _ = topology.parse(result["topology"])
        result["estimate"] = _estimate(result, chip, pace)
    return result


def _estimate(result: dict, chip: chips.Chip, pace: float) -> dict:
    plain = result["program"]
    # Rows stored before these keys existed have latent heads and no teacher.
    load = estimate.Load(
        parts=result["flops"],
        heads=result.get("heads", "latent"),
        taught=result.get("taught", {}),
        backward_calls=result.get("backward_calls", 1),
    )
    collectives = tuple(program.Collective(**values) for values in plain["collectives"])
    compiled = program.Program(
        collectives, plain["kernels"], plain["cycles"], plain["unknown_loops"]
    )
    time = estimate.estimate(compiled, chip, result["devices"], load, pace)
    return {
        "cycles": time.cycles,
        "kernels": time.kernels,
        "exchange": time.exchange,
        "hidden": time.hidden,
        "exposed": time.exposed,
        "mfu_hidden": time.utilisation(time.hidden),
        "mfu_exposed": time.utilisation(time.exposed),
        "kernel_pace": pace,
    }
