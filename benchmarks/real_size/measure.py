"""`python -m benchmarks real_size`: memory and time of commands on a model of real size.

A folder with the geometry of a Qwen3-VL and random weights is made once. Each command then runs in
a process of its own; its peak memory and wall time are put beside what it may take, and
extrapolated to 8B. Finished steps are kept in the workdir, so an interrupted benchmark goes on.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import timing
from benchmarks.real_size import child, geometry, limits, page, steps
from ivx.errors import UserError
from ivx.parallel import available_memory
from ivx.progress import note

SUMMARY = "Memory and time of all commands on a model of real size, beside their limits."
EXAMPLE = """\
  python -m benchmarks real_size --geometry=2b --workdir=/data/real_size
  python -m benchmarks real_size --geometry=trial --workdir=/tmp/ivx/trial --only=import,chat"""
RESULTS = pathlib.Path(__file__).parents[1] / "results"
PEER = "chat by transformers"
_PACKAGES = ("jax", "jaxlib", "numpy", "orbax-checkpoint", "safetensors", "torch", "transformers")


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_enum("geometry", "2b", list(geometry.NAMES), "Sizes of the model.")
    flags.DEFINE_string("workdir", "", "Folder of the model and of all results.")
    flags.DEFINE_list("only", [], "Steps to run; by default all: import, verify, chat, ...")
    flags.DEFINE_bool("again", False, "Measure these steps again.")
    flags.DEFINE_bool("keep", False, "Keep what the steps write; the model itself is kept anyway.")
    flags.DEFINE_string("peer_python", "", "A Python with transformers; default: this one.")
    flags.DEFINE_string("out", str(RESULTS / "real_size.json"), "File of the results.")
    flags.DEFINE_string("page", "", "Page to write, as docs/results/real_size.md.")


def run(flag_values: Any, words: Any = ()) -> dict:
    """Runs the steps and prints the table.

    Raises:
      UserError: there is no workdir or no such step.
    """
    del words
    if not flag_values.workdir:
        raise UserError("no --workdir was given; name a folder with room for six models")
    name, workdir = flag_values.geometry, pathlib.Path(flag_values.workdir).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    planned = steps.steps(name, workdir)
    unknown = set(flag_values.only) - planned.keys() - {"peer"}
    if unknown:
        raise UserError(f"there is no step {min(unknown)!r}; steps are {', '.join(planned)}, peer")
    geometry.make_folder(workdir / "source", name)
    _draw(workdir / "question.png")
    wanted = flag_values.only or [*planned, "peer"]
    record = _Record(workdir / "measured.json", name, wanted if flag_values.again else ())
    if "machine" not in record.rows:
        record.rows["machine"] = _machine(workdir)
    _run(planned, wanted, record, workdir, flag_values.keep)
    if "peer" in wanted:
        record.peer(workdir, flag_values.peer_python)
    result = record.result()
    path = pathlib.Path(flag_values.out)
    stored = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(stored | {name: result}, indent=1) + "\n")
    text = page.render(result)
    if flag_values.page:
        pathlib.Path(flag_values.page).write_text(text)
    print(text)
    return {"ok": all(row.get("code", 0) == 0 for row in result["steps"])} | result


def _run(
    planned: dict[str, steps.Step],
    wanted: Sequence[str],
    record: "_Record",
    workdir: pathlib.Path,
    keep: bool,
) -> None:
    """Runs the wanted steps and those that they need, in order."""
    for step in planned.values():
        pending = step.name in wanted and not record.done(step.name)
        if pending or _needed(step.name, wanted, planned, record):
            record.measure(step, workdir)
        if not keep:
            _clean(planned, wanted, record)


class _Record:
    """Measurements of a workdir, written after every step.

    Args:
      path: of the file.
      name: of the geometry.
      again: steps whose measurements are forgotten.
    """

    def __init__(self, path: pathlib.Path, name: str, again: Sequence[str]) -> None:
        self._path, self._name = path, name
        self.rows: dict[str, Any] = {}
        if path.is_file():
            stored = json.loads(path.read_text())
            if stored.get("geometry") == name:
                self.rows = {key: row for key, row in stored["rows"].items() if key not in again}

    def done(self, name: str) -> bool:
        """Whether a step has succeeded."""
        return self.rows.get(name, {}).get("code") == 0

    def measure(self, step: steps.Step, workdir: pathlib.Path) -> None:
        """Runs a step, unless it has succeeded and what it makes still exists."""
        if self.done(step.name) and (not step.makes or step.makes.exists()):
            return
        if step.makes:
            shutil.rmtree(step.makes, ignore_errors=True)
        note(f"{step.name}: {step.what}")
        memory = step.memory()
        ran = child.run(step.command, workdir / f"{step.name}.log")
        machine = limits.Machine(**self.rows["machine"])
        written = _size(step.makes) if step.makes else 0
        least = machine.seconds(sum(map(_size, step.reads)), written, step.flops)
        self._keep(step.name, step.what, ran, {"memory_limit": memory, "least_seconds": least})

    def peer(self, workdir: pathlib.Path, python: str) -> None:
        """Asks transformers the question of `chat`, if a Python has it."""
        if self.done("peer") or not (python or importlib.util.find_spec("transformers")):
            return
        script = pathlib.Path(__file__).with_name("peer.py")
        question = [str(workdir / "source"), str(workdir / "question.png"), "8"]
        ran = child.run([python or sys.executable, str(script), *question], workdir / "peer.log")
        self._keep("peer", PEER, ran, {})

    def _keep(self, name: str, what: str, ran: child.Run, extra: dict) -> None:
        self.rows[name] = {
            "name": name,
            "what": what,
            "code": ran.code,
            "seconds": round(ran.seconds, 1),
            "peak": ran.peak,
            "resident": ran.resident,
        } | extra
        if ran.code:
            self.rows[name]["log"] = ran.log
            note(f"{name} FAILED with code {ran.code}: {ran.log[-600:]}")
        self.store()

    def store(self) -> None:
        """Writes the file."""
        self._path.write_text(json.dumps({"geometry": self._name, "rows": self.rows}, indent=1))

    def result(self) -> dict:
        """Conditions, measurements, and what follows for 8B."""
        machine = limits.Machine(**self.rows["machine"])
        parameters = geometry.parameters(self._name)
        ratio = geometry.parameters("8b") / parameters
        rows = [row for name, row in self.rows.items() if name not in ("machine", "data")]
        for row in rows:
            row["peak_8b"] = limits.extrapolated(row["peak"], machine.start_bytes, ratio)
            row["seconds_8b"] = limits.extrapolated(row["seconds"], machine.start_seconds, ratio)
        return {
            "geometry": self._name,
            "parameters": parameters,
            "conditions": _conditions(),
            "machine": self.rows["machine"],
            "ratio_8b": ratio,
            "steps": rows,
        }


def _machine(workdir: pathlib.Path) -> dict:
    """The paces of this machine, as the fields of `limits.Machine`."""
    written, read = limits.disk_paces(workdir)
    start = child.run(child.ivx("doctor"), workdir / "start.log")
    return {
        "flops": limits.product_pace(),
        "written": written,
        "read": read,
        "start_seconds": start.seconds,
        "start_bytes": start.peak,
    }


def _needed(
    name: str, wanted: Sequence[str], planned: dict[str, steps.Step], record: _Record
) -> bool:
    """Whether a wanted step that has not succeeded reads what this one makes, or needs it to."""

    def reads(other: str) -> bool:
        return any(source == name or reads(source) for source in planned[other].needs)

    return any(reads(other) for other in wanted if other in planned and not record.done(other))


def _clean(planned: dict[str, steps.Step], wanted: list[str], record: _Record) -> None:
    """Removes the folders that no step still to come reads."""
    for step in planned.values():
        if (
            step.makes
            and record.done(step.name)
            and not _needed(step.name, wanted, planned, record)
        ):
            shutil.rmtree(step.makes, ignore_errors=True)


def _draw(path: pathlib.Path) -> None:
    """The picture of the question."""
    from PIL import Image

    Image.new("RGB", (224, 224), (200, 30, 30)).save(path)


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _conditions() -> dict:
    memory = available_memory.of_host()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return timing.machine(_PACKAGES) | {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory.total / 2**30, 1) if memory else None,
        "load": timing.load(),
        "commit": commit,
    }
