"""Metric writers: JSON lines, TensorBoard events, Weights & Biases.

W&B is enabled by WANDB_PROJECT and configured by its usual variables: WANDB_MODE=offline logs into
the workdir, WANDB_ENTITY selects a team. The W&B run id is stored in the workdir, so all starts of
a run share one W&B run. Steps that were lost to a kill and repeated appear there twice. In offline
mode every start writes a folder of its own.
"""

import json
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import tensorboardX

from ivx import progress
from ivx.errors import UserError

METRICS = "metrics.jsonl"
# Integers beyond this are damage: a float no longer holds each of them.
_STEPS = 1 << 53
# Spoiled rows that a message names.
_NAMED = 5


@runtime_checkable
class MetricWriter(Protocol):
    """A sink of scalars: the part of `clu.metric_writers.MetricWriter` that the loop uses.

    Importing clu's class needs TensorFlow, which ivx does not install.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step by name."""

    def flush(self) -> None:
        """Writes buffered scalars to disk."""

    def close(self) -> None:
        """Closes the writer."""


class MultiWriter:
    """Forwards to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class JsonLinesWriter:
    """One JSON object per call: {"step": ..., name: value, ...}.

    Args:
      path: file to append to; rows after `resume_step` are dropped first, so a resumed run has each
        step once.
      resume_step: steps already taken.
    """

    def __init__(self, path: pathlib.Path, resume_step: int) -> None:
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        rewritten = path.with_suffix(".partial")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        rewritten.replace(path)
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        # Python prints the shortest exact form of a float, so equal lines mean equal bits.
        row = {"step": step} | {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        self._file.flush()
        # If this process is killed, a mounted bucket keeps only what was synced.
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """TensorBoard events through tensorboardX."""

    def __init__(self, folder: pathlib.Path, resume_step: int) -> None:
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """Scalars to Weights & Biases.

    Args:
      workdir: of the run; holds W&B's local files and the id of its run.
      project: name of the W&B project.

    Raises:
      UserError: wandb is not installed, or cannot start a run.
    """

    def __init__(self, workdir: pathlib.Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"WANDB_PROJECT={project} enables W&B, but wandb is not installed;"
                " install ivx[wandb], or unset WANDB_PROJECT"
            ) from error
        id_file, config = workdir / "wandb_id", workdir / "config.json"
        if not id_file.exists():
            partial = workdir / ".wandb_id.partial"
            partial.write_text(secrets.token_hex(8))
            partial.replace(id_file)
        try:
            self._run = wandb.init(
                project=project,
                id=id_file.read_text(),
                resume="allow",
                name=workdir.name,
                dir=workdir,
                config=json.loads(config.read_text()) if config.exists() else None,
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B could not start a run in project {project}: {error}; log in with"
                " `wandb login`, set WANDB_MODE=offline, or unset WANDB_PROJECT"
            ) from error
        # W&B's own step counter must increase, but a resumed run repeats some steps.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step} | {name: float(value) for name, value in scalars.items()})

    def flush(self) -> None:
        """Does nothing: W&B uploads in the background."""

    def close(self) -> None:
        self._run.finish()


def make_writer(workdir: pathlib.Path, resume_step: int) -> MetricWriter:
    """The writers of a run: metrics.jsonl, TensorBoard, and W&B if enabled.

    Only process 0 writes.

    Raises:
      UserError: W&B is enabled but cannot be used.
    """
    if jax.process_index():
        return MultiWriter([])
    project = os.environ.get("WANDB_PROJECT")
    return MultiWriter(
        [
            JsonLinesWriter(workdir / METRICS, resume_step),
            TensorBoardWriter(workdir, resume_step),
            *([WandbWriter(workdir, project)] if project else []),
        ]
    )


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, without those that a kill or damage spoiled, which are named.

    A row is an object of numbers with a `step`. Values may be NaN or infinite, as a loss may be.
    """
    if not path.exists():
        return []
    rows, faults = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            fault = ""
            try:
                row = json.loads(line.decode())
                fault = _row_fault(row)
            except UnicodeDecodeError:
                fault = "is not text"
            except (ValueError, RecursionError):
                fault = "is not JSON" if line.endswith(b"\n") else "is incomplete"
            if fault:
                faults.append(f"line {number} {fault}")
            else:
                rows.append(row)
    if faults:
        named = ", ".join(faults[:_NAMED])
        more = f" and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
        progress.note(f"{path}: skipped {named}{more}")
    return rows


def _row_fault(row: Any) -> str:
    """Why a JSON value is no row of metrics; empty if it is one."""
    if not isinstance(row, dict):
        return "is no object"
    step = row.get("step")
    if type(step) is not int or not 0 <= step < _STEPS:
        return "has no step"
    for name, value in row.items():
        if not name.isprintable():
            return "has an unreadable name"
        if type(value) not in (int, float) or (type(value) is int and abs(value) >= _STEPS):
            return f"has no number for {name[:40]!r}"
    return ""
