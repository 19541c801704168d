"""The compiling process of `ivx compile --config`: the step of the loop, lowered and compiled.

Its state and batch are shapes only. Run by `ivx.aot.child`.
"""

import math
import pathlib
import time

import jax
import ml_collections

from ivx import build, config
from ivx.aot import child, program, topology
from ivx.build import stages, training
from ivx.errors import UserError
from ivx.kernels import choice
from ivx.training import abstract


def main() -> None:
    asked = child.question()
    try:
        child.answer(_compile(_config(asked["config"]), asked["topology"], asked["text"]))
    except UserError as error:
        child.answer({"refusal": str(error), "wrong": True})


def _config(plain: dict) -> ml_collections.ConfigDict:
    found = config.base()
    found.update(plain)
    return found


def _compile(given: ml_collections.ConfigDict, place: str, text: str) -> dict:
    mesh = build.mesh(given, topology.devices(place))
    definition = training.definition(given)
    optimizer, options = training.optimizer(given), training.run_spec(given).options
    shardings = abstract.state_shardings(definition, optimizer, mesh, options.ema > 0)
    stage, micro_batches = stages.dataless(given), given.optim.accumulation
    step = abstract.jit_step(definition, stage, optimizer, micro_batches, shardings, mesh, options)
    state = abstract.abstract_state(definition, optimizer, shardings)
    batch = build.abstract_batch(given, mesh)
    found = {
        "mesh": dict(mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "bytes": {
            "parameters": _held(state.params),
            "optimizer": _held(state.opt_state),
            "batch": _held(batch),
        },
    }
    began = time.monotonic()
    try:
        # As on a pod, where ops take their kernels.
        with choice.force("tpu"):
            lowered = step.trace(state, {}, batch).lower(lowering_platforms=("tpu",))
        found["lower_seconds"] = time.monotonic() - began
        compiled = lowered.compile()
    except Exception as error:  # whatever it is, it is the compiler's answer
        return found | {"refusal": child.sentence(error), "said": str(error)[:20000]}
    return found | {
        "compile_seconds": time.monotonic() - began,
        "memory": _memory(compiled),
        "program": _program(compiled, dict(mesh.shape), text),
    }


def _held(tree) -> int:
    """Bytes of these arrays on one device."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _memory(compiled) -> dict:
    """Bytes on one device, as the compiler plans them."""
    found = compiled.memory_analysis()
    kept = found.output_size_in_bytes - found.alias_size_in_bytes
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "results": kept,
        "host": found.host_temp_size_in_bytes,
        "peak": found.peak_memory_in_bytes or arguments + temporaries + kept,
    }


def _program(compiled, axes: dict[str, int], path: str) -> dict | None:
    """What is read from the program's text, which goes to `path` too; None where it has none."""
    try:
        text = compiled.as_text()
        if path:
            pathlib.Path(path).write_text(text)
    except Exception:  # libtpu fails to print some asynchronous programs
        return None
    found = program.read(text, axes)
    return {
        "collectives": [vars(one) for one in found.collectives],
        "kernels": found.kernels,
        "cycles": found.cycles,
        "unknown_loops": found.unknown_loops,
    }


if __name__ == "__main__":
    main()
