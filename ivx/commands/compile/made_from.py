"""What a cell of the table of pods was made from, and whether it would be made the same way now.

    config    all of it, as it was compiled
    sources   what builds, lowers and compiles a step, and reads the compiled program
    reader    of these what compiles and reads: with the same, a program that is lowered to what it
              was lowered to before need not be compiled again
    versions  of the packages that compile, and of Python, by whose syntax sources are told apart

Arithmetic on what the compiler said, such as modelled times, is no part of it: that is done anew
whenever the table is made.
"""

import functools
import hashlib
import json
import pathlib
import platform

from ivx.commands.compile import cells

READER = (
    *(f"ivx/aot/{name}.py" for name in ("child", "frames", "library", "lowered", "program")),
    "ivx/aot/topology.py",
    "ivx/commands/compile/step_child.py",
)
SOURCES = (
    *READER,
    *(f"ivx/{name}" for name in ("build", "conversion", "kernels", "models", "parallel")),
    *(f"ivx/{name}" for name in ("sampling", "stages", "training")),
    "data_pipelines/batch.py",
    "data_pipelines/packing.py",
    *(f"data_pipelines/video/{name}.py" for name in ("patches", "resize")),
)
# In these folders, but not in a step: arithmetic, what makes batches, and what a run does beside.
BESIDE = (
    "ivx/models/work.py",
    *(f"ivx/stages/{name}.py" for name in ("questions", "rewards")),
    *(f"ivx/training/{name}.py" for name in ("meter", "profiler", "progress", "watchdog")),
    "ivx/training/writers.py",
)


def now(config) -> dict:
    """What the step of a config would be made from."""
    plain = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return {
        "config": hashlib.sha256(plain.encode()).hexdigest()[:16],
        "sources": _digest(SOURCES),
        "reader": _digest(READER),
        "versions": _versions(),
    }


def age(row: dict, current: dict) -> str:
    """What has changed since a row was made; empty if nothing.

    Args:
      row: a cell; one of before this was kept has no `made_from`.
      current: of `now`.
    """
    then = row.get("made_from")
    if not then:
        return "of earlier sources"
    # Where the compiler is not at hand, its version is not known.
    known = then["versions"].keys() & current["versions"].keys()
    if any(then["versions"][package] != current["versions"][package] for package in known):
        return "of other versions"
    if then["sources"] != current["sources"]:
        return "of earlier sources"
    return "of an earlier config" if then["config"] != current["config"] else ""


def is_read_alike(row: dict, current: dict) -> bool:
    """Whether a program that is the same now as that of a row would be read the same way."""
    then = row.get("made_from", {})
    return all(then.get(part) == current[part] for part in ("config", "reader", "versions"))


def ages(known: dict) -> dict[str, str]:
    """Of every cell of the table that is known and would be made otherwise now: in what."""
    found = {}
    for stage, row in cells.CELLS.items():
        for topology in row:
            key = cells.key(stage, topology)
            if key in known:
                found[key] = age(known[key], now(cells.config(stage, topology)))
    return {key: words for key, words in found.items() if words}


@functools.cache
def _digest(names: tuple[str, ...]) -> str:
    import ivx
    from ivx.aot import sources

    root = pathlib.Path(ivx.__file__).parents[1]
    return sources.digest([root / name for name in names], root, [root / name for name in BESIDE])


@functools.cache
def _versions() -> dict[str, str]:
    from ivx.aot import library

    python = ".".join(platform.python_version_tuple()[:2])
    return library.versions("jax", "jaxlib", "flax", "libtpu") | {"python": python}
