"""The compiling process of `ivx compile --config`: the step of the loop, lowered and compiled.

Its state and batch are shapes only. Run by `ivx.aot.child`. A program that is known already, by its
digest, is lowered and not compiled.
"""

import math
import pathlib
import resource
import time

import jax
import ml_collections

from ivx import build, config
from ivx.aot import child, lowered, program, topology
from ivx.build import dataless
from ivx.errors import UserError
from ivx.kernels import choice
from ivx.parallel import compiler


def main() -> None:
    asked = child.question()
    try:
        given = _config(asked["config"])
        child.answer(_compile(given, asked))
    except UserError as error:
        child.answer({"refusal": str(error), "wrong": True})


def _config(plain: dict) -> ml_collections.ConfigDict:
    found = config.base()
    found.update(plain)
    return found


def _compile(given: ml_collections.ConfigDict, asked: dict) -> dict:
    mesh = build.mesh(given, topology.devices(asked["topology"]))
    step = dataless.program(given, mesh, asked["teacher"], asked["part"])
    found = {
        "mesh": dict(mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(step.held["parameters"])),
        "bytes": {name: _held(part) for name, part in step.held.items()},
    }
    try:
        began = time.monotonic()
        # As on a pod, where ops take their kernels.
        with choice.force("tpu"):
            traced = step.function.trace(*step.arguments, **step.options)
            asking = traced.lower(lowering_platforms=("tpu",))
        found["lower_seconds"] = time.monotonic() - began
        found["lowered"] = lowered.digest(asking.as_text(), compiler.options(mesh))
        if found["lowered"] == asked["known"]:
            return found
        began = time.monotonic()
        compiled = asking.compile()
    except Exception as error:  # whatever it is, it is the compiler's answer
        return found | {"refusal": child.sentence(error), "said": str(error)[:20000]}
    return found | {
        "compile_seconds": time.monotonic() - began,
        "resident": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "memory": _memory(compiled),
        "program": _program(compiled, dict(mesh.shape), asked["text"]),
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
        "places": found.places,
    }


if __name__ == "__main__":
    main()
