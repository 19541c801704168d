"""The child process of `ivx compile`: lowers and compiles a step from shapes alone.

`ivx.aot.child` runs it. With `lower_only` the program is lowered but not compiled.
"""

import math
import pathlib
import resource
import time
from typing import Any

import jax
import ml_collections

from ivx import config as configs
from ivx import from_config
from ivx.aot import child, lowered, program, topology
from ivx.errors import UserError
from ivx.kernels import choice
from ivx.parallel import compiler


def main() -> None:
    """Answers the question of the parent process."""
    question = child.question()
    try:
        child.answer(_compile(_config(question["config"]), question))
    except UserError as error:
        child.answer({"refusal": str(error), "wrong": True})


def _config(plain: dict) -> ml_collections.ConfigDict:
    config = configs.base(plain["stage"]["name"])
    config.update(plain)
    return config


def _compile(config: ml_collections.ConfigDict, question: dict) -> dict:
    mesh = from_config.mesh.make(config, topology.devices(question["topology"]))
    step = from_config.programs.program(config, mesh, question["teacher"], question["part"])
    result = {
        "mesh": dict(mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(step.held["parameters"])),
        "bytes": {name: _device_bytes(part) for name, part in step.held.items()},
    }
    try:
        start = time.monotonic()
        # Ops choose their kernels as on a TPU.
        with choice.force("tpu"):
            traced = step.function.trace(*step.arguments, **step.options)
            stablehlo = traced.lower(lowering_platforms=("tpu",))
        result["lower_seconds"] = time.monotonic() - start
        result["lowered"] = lowered.digest(stablehlo.as_text(), compiler.options(mesh))
        if question["lower_only"]:
            return result
        start = time.monotonic()
        compiled = stablehlo.compile()
    except Exception as error:  # any error is the compiler's answer
        return result | {"refusal": child.sentence(error), "said": str(error)[:20000]}
    return result | {
        "compile_seconds": time.monotonic() - start,
        "resident": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "memory": _memory(compiled),
        "program": _program(compiled, dict(mesh.shape), question["text"]),
    }


def _device_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays on one device."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _memory(compiled: jax.stages.Compiled) -> dict:
    """Bytes on one device, as planned by the compiler."""
    analysis = compiled.memory_analysis()
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "results": results,
        "host": analysis.host_temp_size_in_bytes,
        "peak": analysis.peak_memory_in_bytes or arguments + temporaries + results,
    }


def _program(compiled: jax.stages.Compiled, axes: dict[str, int], path: str) -> dict | None:
    """Reads the program's text and writes it to `path`; None if libtpu cannot print it."""
    try:
        text = compiled.as_text()
        if path:
            pathlib.Path(path).write_text(text)
    except Exception:  # libtpu fails to print some asynchronous programs
        return None
    result = program.read(text, axes)
    return {
        "collectives": [vars(collective) for collective in result.collectives],
        "kernels": result.kernels,
        "cycles": result.cycles,
        "unknown_loops": result.unknown_loops,
        "places": result.places,
    }


if __name__ == "__main__":
    main()
