"""Metrics by clu's MetricWriter interface: JSON lines, TensorBoard without TensorFlow, W&B.

W&B has them where the environment names a project, WANDB_PROJECT, and by its own other variables:
WANDB_MODE=offline keeps them in the workdir, WANDB_ENTITY names a team. A run is one run there,
by the id that the workdir keeps, however often it is started; steps that were lost with a kill and
made again are there twice. Offline, every start leaves a folder of its own.
"""

import importlib.util
import json
import os
import pathlib
import secrets
import sys
import types
from collections.abc import Mapping

import jax
import numpy as np
import tensorboardX

if importlib.util.find_spec("tensorflow") is None:
    # clu imports its TensorFlow writer with the interface; where there is no TensorFlow an empty
    # module stands for it.
    sys.modules.setdefault(
        "clu.metric_writers.summary_writer", types.SimpleNamespace(SummaryWriter=None)
    )

from clu import metric_writers

from ivx.errors import UserError

METRICS = "metrics.jsonl"


class JsonLinesWriter(metric_writers.MetricWriter):
    """One JSON object a call: {"step": ..., name: value, ...}.

    Args:
      path: appended to; lines of steps after `resume_step` are dropped first, so that a resumed
        run has each step once.
      resume_step: steps already taken.
    """

    def __init__(self, path: pathlib.Path, resume_step: int):
        kept = (
            [row for row in read_metrics(path) if row["step"] <= resume_step]
            if path.exists()
            else []
        )
        rewritten = path.with_suffix(".partial")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        rewritten.replace(path)
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        # Python writes a float by its shortest exact form, so equal lines mean equal bits.
        row = {"step": step} | {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps(row) + "\n")

    def _leave_out(self, *args, **kwargs) -> None:
        """A line holds numbers only; hyper-parameters stand in config.json."""

    write_hparams = write_summaries = write_images = write_videos = write_audios = write_texts = (
        _leave_out
    )
    write_histograms = _leave_out

    def flush(self) -> None:
        self._file.flush()
        # A mounted bucket holds what was synced, and no more if this process is killed.
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter(metric_writers.MetricWriter):
    """TensorBoard events through tensorboardX."""

    def __init__(self, folder: pathlib.Path, resume_step: int):
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            self._writer.add_images(name, np.asarray(image), step, dataformats="NHWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def write_histograms(self, step: int, arrays, num_buckets=None) -> None:
        for name, values in arrays.items():
            self._writer.add_histogram(name, np.asarray(values), step)

    def _leave_out(self, *args, **kwargs) -> None:
        """Not shown; hyper-parameters stand in config.json."""

    write_hparams = write_summaries = write_videos = write_audios = _leave_out

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter(metric_writers.MetricWriter):
    """Numbers to Weights & Biases.

    Args:
      workdir: of the run; what W&B keeps on disk is here too, and the id of its run.
      project: of W&B.

    Raises:
      UserError: wandb is not installed, or refuses.
    """

    def __init__(self, workdir: pathlib.Path, project: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"WANDB_PROJECT={project} asks for W&B, and wandb is not installed;"
                " install ivx[wandb], or unset WANDB_PROJECT"
            ) from error
        known, config = workdir / "wandb_id", workdir / "config.json"
        if not known.exists():
            partial = workdir / ".wandb_id.partial"
            partial.write_text(secrets.token_hex(8))
            partial.replace(known)
        try:
            self._run = wandb.init(
                project=project,
                id=known.read_text(),
                resume="allow",
                name=workdir.name,
                dir=workdir,
                config=json.loads(config.read_text()) if config.exists() else None,
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B refuses the project {project}: {error}; log in with `wandb login`, set"
                " WANDB_MODE=offline, or unset WANDB_PROJECT"
            ) from error
        # W&B takes its own steps in order alone; a resumed run goes back some.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step} | {name: float(value) for name, value in scalars.items()})

    def _leave_out(self, *args, **kwargs) -> None:
        """Numbers alone are shown."""

    write_hparams = write_summaries = write_images = write_videos = write_audios = write_texts = (
        _leave_out
    )
    write_histograms = _leave_out

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def make_writer(workdir: pathlib.Path, resume_step: int) -> metric_writers.MetricWriter:
    """metrics.jsonl, TensorBoard events and W&B's run, which the first process alone writes.

    Raises:
      UserError: as `WandbWriter`, where a project is named.
    """
    if jax.process_index():
        return metric_writers.MultiWriter([])
    project = os.environ.get("WANDB_PROJECT")
    return metric_writers.MultiWriter(
        [
            JsonLinesWriter(workdir / METRICS, resume_step),
            TensorBoardWriter(workdir, resume_step),
            *([WandbWriter(workdir, project)] if project else []),
        ]
    )


def read_metrics(path: pathlib.Path) -> list[dict]:
    """All rows of a metrics file; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
