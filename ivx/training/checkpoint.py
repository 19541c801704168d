"""Checkpoints: one Orbax object of state, data position and config, written whole or not at all.

They lie in the workdir and, if that is asked for, every n-th in a second place too, a bucket say
for a workdir on a disk that goes with the machine. What is read back is compared with checksums
(`ivx.training.verified`).
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ivx.errors import UserError
from ivx.models.definition import Params
from ivx.training import host_arrays, progress
from ivx.training.state import TrainState
from ivx.training.verified import Place, position, read_newest_whole, set_aside

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state and the number of batches that went into it."""

    state: TrainState
    next_batch: int


@dataclasses.dataclass(frozen=True)
class Remote:
    """A second place of checkpoints.

    Attributes:
      folder: a path, or gs://bucket/folder, of this run alone.
      every: of so many saves one goes there too.
    """

    folder: str
    every: int


class Checkpoints:
    """The checkpoints of one run; saves go on in the background.

    Args:
      workdir: of the run; they lie in its folder `checkpoints`.
      keep: how many are kept in each place.
      config: text of the config, stored with each.
      remote: where they go besides.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, config: str, remote: Remote | None = None):
        self._config = json.loads(config)
        self._remote, self._saves = remote, 0
        # What a kill left half-written is removed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        folders = [_folder(workdir)] + ([_folder(remote.folder)] if remote else [])
        self._managers = [ocp.CheckpointManager(folder, options=options) for folder in folders]

    def latest(self) -> int | None:
        """Step of the newest checkpoint that was written to its end."""
        return max((place.step for place in self._places()), default=None)

    def save(self, state: TrainState, step: int, last: bool = False) -> None:
        """Starts to write; waits only for the previous save.

        Args:
          state: to be saved.
          step: its number.
          last: of this start of the run, so that it goes to the second place too.

        Raises:
          UserError: this save or the one before could not be written.
        """
        stored = _stored(state)
        self._saves += 1
        far = self._remote and (last or self._saves % self._remote.every == 0)
        data = position(step, stored)
        for manager in self._managers if far else self._managers[:1]:
            with _Explained(manager):
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored),
                        data=ocp.args.JsonSave(data),
                        config=ocp.args.JsonSave(self._config),
                    ),
                )

    def restore(self, abstract: TrainState) -> Restored:
        """Reads the newest whole one into shapes and shardings of `abstract`, from whatever mesh.

        Newer ones that are damaged are moved to the folder `damaged` beside, since the run will
        come by their steps again.

        Raises:
          UserError: all are damaged.
        """
        places = self._places()
        found, place = read_newest_whole(places, _stored(abstract))
        if damaged := places[: places.index(place)]:
            set_aside(damaged)
            for manager in self._managers:
                manager.reload()
        if place.folder != self._managers[0].directory:
            progress.note(f"restored step {place.step} from {place.folder}")
        return Restored(TrainState(**found), place.step)

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: something could not be written.
        """
        for manager in self._managers:
            with _Explained(manager):
                manager.wait_until_finished()
        for manager in self._managers:
            manager.close()

    def _places(self) -> list[Place]:
        """All that were written to their end, newest first, those of the workdir before others."""
        found = [
            Place(manager.directory, step)
            for manager in self._managers
            for step in manager.all_steps()
        ]
        return sorted(found, key=lambda place: -place.step)


class _Explained:
    """Says in a sentence what keeps checkpoints from being written."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        # Tensorstore's errors are ValueErrors, with the number of the system's in their text.
        if not isinstance(error, OSError | ValueError):
            return
        steps = self._manager.all_steps()
        newest = f"step {max(steps)}" if steps else "its start"
        raise UserError(
            f"a checkpoint could not be written to {self._manager.directory}:"
            f" {' '.join(str(error).split())[:300]}; make room or mend the place,"
            f" and the same command goes on from {newest}"
        ) from error


def save_params(workdir: pathlib.Path, params: Params, config: str) -> None:
    """Writes parameters that no step has changed, imported or converted, as checkpoint 0.

    Little more than the parameters themselves is in memory.
    """
    handlers = {
        "state": host_arrays.handler(),
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
                data=ocp.args.JsonSave(position(0, {"params": params})),
                config=ocp.args.JsonSave(json.loads(config)),
            ),
        )


def load_params(
    workdir: pathlib.Path,
    abstract: Params,
    shardings: Params | None = None,
    averaged: bool = False,
) -> tuple[Params, int]:
    """Parameters of the newest whole checkpoint of a run, and its step; changes nothing on disk.

    Args:
      workdir: of the run.
      abstract: shapes and dtypes.
      shardings: where each is to lie; None puts all on the first device.
      averaged: the running mean of the parameters, of a run that keeps one.

    Raises:
      UserError: there is no checkpoint, or all are damaged.
    """
    if shardings is None:
        whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: whole, abstract)
    placed = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings
    )
    steps = _steps(workdir)
    # The parameters that a run was given by `save_params` are their own mean.
    name = "averaged" if averaged and steps[0] else "params"
    places = [Place(_folder(workdir), step) for step in steps]
    found, place = read_newest_whole(places, {name: placed})
    return found[name], place.step


def stored_types(workdir: pathlib.Path) -> dict[str, str]:
    """Type of every parameter of the newest checkpoint, by its dotted path.

    Raises:
      UserError: there is no checkpoint.
    """
    place = _folder(workdir) / str(latest_step(workdir)) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(place).item_metadata.tree["params"]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): str(leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def latest_step(workdir: pathlib.Path) -> int:
    """Step of the newest checkpoint of a workdir that was written to its end.

    Raises:
      UserError: there is none.
    """
    return _steps(workdir)[0]


def _steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints of a workdir, newest first.

    Raises:
      UserError: there is none.
    """
    folder = _folder(workdir)
    found = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not found:
        raise UserError(
            f"{workdir} holds no whole checkpoint; `ivx train`, `ivx convert` and `ivx import-hf`"
            " write them"
        )
    return sorted(found, reverse=True)


def _folder(workdir: pathlib.Path | str) -> epath.Path:
    """The folder of checkpoints of a workdir, which may lie in a bucket."""
    place = os.fspath(workdir)
    return epath.Path(place if "://" in place else os.path.abspath(place)) / FOLDER


def _stored(state: TrainState) -> dict[str, Any]:
    """What of a state is on disk: all but what it does not have."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}
