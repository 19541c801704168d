"""Checkpoints: state, data position and config as one Orbax object, written atomically.

They are stored in the workdir and optionally, every n-th, in a second folder, such as a bucket when
the workdir's disk is lost with the machine. Restored arrays are verified by checksums
(`ivx.training.checkpoints.restore`).
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import types
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ivx import progress
from ivx.errors import UserError
from ivx.models.definition import Params
from ivx.training.checkpoints import host_arrays, read_errors
from ivx.training.checkpoints.restore import (
    Location,
    position,
    read_newest_intact,
    set_aside,
)
from ivx.training.step import TrainState

FOLDER = "checkpoints"
# Orbax logs an error of its threads with a traceback, and raises it again. It also warns that the
# folder of one item lacks the metadata that a whole checkpoint has.
_NOISE = ("_SignalingThread", "Metadata file does not exist")
logging.getLogger("absl").addFilter(
    lambda record: not any(part in record.getMessage() for part in _NOISE)
)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state, the number of batches it has used, and the facts stored with it."""

    state: TrainState
    next_batch: int
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Remote:
    """A second folder for checkpoints.

    Attributes:
      folder: a path, or gs://bucket/folder, used by this run only.
      every: every n-th save is also written there.
    """

    folder: str
    every: int


class Checkpoints:
    """The checkpoints of one run; saving is asynchronous.

    Args:
      workdir: of the run; its subfolder `checkpoints` is used.
      keep: number of checkpoints kept in each folder.
      config: config as JSON text, stored with each checkpoint.
      remote: a second folder.
    """

    def __init__(
        self, workdir: pathlib.Path, keep: int, config: str, remote: Remote | None = None
    ) -> None:
        self._config = json.loads(config)
        self._remote, self._saves = remote, 0
        # Stored with every checkpoint.
        self.facts: dict[str, Any] = {}
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            # Removes what a killed process left incomplete.
            cleanup_tmp_directories=True,
            # Otherwise a damaged file of times, which nothing needs, would end the run here.
            lightweight_initialize=True,
        )
        self._folders = [_folder(workdir)] + ([_folder(remote.folder)] if remote else [])
        self._managers = self._open()
        # A save runs in threads: when one write fails, those that end after it are reported late.
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(read_errors.without_late_reports())

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None without one."""
        return max((location.step for location in self._locations()), default=None)

    def save(self, state: TrainState, step: int, last: bool = False) -> None:
        """Starts a save; blocks only until the previous save is complete.

        Args:
          state: the state to save.
          step: its step.
          last: whether this is the last save of this process; it goes to both folders.

        Raises:
          UserError: this save or the previous one could not be written.
        """
        stored = _stored(state)
        self._saves += 1
        to_remote = self._remote and (last or self._saves % self._remote.every == 0)
        data = position(step, stored, self.facts)
        for manager in self._managers if to_remote else self._managers[:1]:
            with _ExplainErrors(manager):
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored, save_args=host_arrays.chunked(stored)),
                        data=ocp.args.JsonSave(data),
                        config=ocp.args.JsonSave(self._config),
                    ),
                )

    def restore(self, abstract: TrainState) -> Restored:
        """Restores the newest intact checkpoint; the mesh may differ from the one it was saved on.

        Newer, damaged checkpoints are moved to the folder `damaged`, since the run will save these
        steps again.

        Args:
          abstract: shapes and shardings.

        Raises:
          UserError: all are damaged.
        """
        locations = self._locations()
        stored, location, facts = read_newest_intact(locations, _stored(abstract))
        if damaged := locations[: locations.index(location)]:
            set_aside(damaged)
            for manager in self._managers:
                manager.close()
            self._managers = self._open()
        if location.folder != self._managers[0].directory:
            progress.note(f"restored step {location.step} from {location.folder}")
        return Restored(TrainState(**stored), location.step, facts)

    def close(self) -> None:
        """Blocks until all saves are complete.

        Raises:
          UserError: a save could not be written.
        """
        with self._quiet:
            for manager in self._managers:
                with _ExplainErrors(manager):
                    manager.wait_until_finished()
            for manager in self._managers:
                manager.close()

    def _open(self) -> list[ocp.CheckpointManager]:
        return [ocp.CheckpointManager(folder, options=self._options) for folder in self._folders]

    def _locations(self) -> list[Location]:
        """All complete checkpoints, newest first; of the same step the workdir's first."""
        locations = [
            Location(manager.directory, step)
            for manager in self._managers
            for step in manager.all_steps()
        ]
        return sorted(locations, key=lambda location: -location.step)


class _ExplainErrors:
    """Converts write errors of a manager to `UserError`."""

    def __init__(self, manager: ocp.CheckpointManager) -> None:
        self._manager = manager

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        # Tensorstore raises ValueErrors with the errno in their text.
        if not isinstance(error, OSError | ValueError):
            return
        steps = self._manager.all_steps()
        newest = f"step {max(steps)}" if steps else "the start"
        raise UserError(
            f"a checkpoint could not be written to {self._manager.directory}:"
            f" {' '.join(str(error).split())[:300]}; free space or fix the storage, then rerun the"
            f" same command to resume from {newest}"
        ) from error


def save_params(workdir: pathlib.Path, params: Params, config: str) -> None:
    """Writes imported or converted parameters as checkpoint 0.

    Uses little memory beyond the parameters themselves.
    """
    with progress.waiting("checksums of the parameters"):
        data = position(0, {"params": params})
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    with progress.Bar(size, "saving the checkpoint", "B") as bar:
        handlers = {
            "state": host_arrays.handler(bar),
            "data": ocp.JsonCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
        }
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        folder = _folder(workdir)
        with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
            manager.save(
                0,
                args=ocp.args.Composite(
                    state=host_arrays.save_args({"params": params}),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(json.loads(config)),
                ),
            )


def load_params(
    workdir: pathlib.Path,
    abstract: Params,
    shardings: Params | None = None,
    averaged: bool = False,
) -> tuple[Params, int]:
    """Parameters of the newest intact checkpoint of a run, and its step; read-only.

    Args:
      workdir: of the run.
      abstract: shapes and dtypes.
      shardings: of the parameters; None puts all on the first device.
      averaged: load the moving average of the parameters, for a run that keeps one.

    Raises:
      UserError: there is no checkpoint, or all are damaged.
    """
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: first, abstract)
    sharded = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings
    )
    steps = _steps(workdir)
    # Checkpoint 0 of `save_params` has no average.
    name = "averaged" if averaged and steps[0] else "params"
    locations = [Location(_folder(workdir), step) for step in steps]
    intact = read_newest_intact(locations, {name: sharded})
    return intact.state[name], intact.location.step


def stored_types(workdir: pathlib.Path, step: int) -> dict[str, str]:
    """Dtype of every parameter of an intact checkpoint, by its dotted path."""
    path = _folder(workdir) / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree["params"]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): str(leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def latest_step(workdir: pathlib.Path) -> int:
    """Step of the newest complete checkpoint of a workdir.

    Raises:
      UserError: there is none.
    """
    return _steps(workdir)[0]


def newest_step(workdir: pathlib.Path, remote: str = "") -> int:
    """Step of the newest complete checkpoint of a run and its second folder; 0 without one."""
    folders = [_folder(workdir)] + ([_folder(remote)] if remote else [])
    present = [folder for folder in folders if folder.is_dir()]
    return max((max(ocp.utils.checkpoint_steps(f), default=0) for f in present), default=0)


def _steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints of a workdir, newest first.

    Raises:
      UserError: there is none.
    """
    folder = _folder(workdir)
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(
            f"{workdir} holds no complete checkpoint; `ivx train`, `ivx convert` and"
            " `ivx import-hf` write them"
        )
    return sorted(steps, reverse=True)


def _folder(workdir: pathlib.Path | str) -> epath.Path:
    """The checkpoint folder of a workdir, which may be in a bucket."""
    path = os.fspath(workdir)
    return epath.Path(path if "://" in path else os.path.abspath(path)) / FOLDER


def _stored(state: TrainState) -> dict[str, Any]:
    """The fields of a state that are stored: all but those that are None."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}
