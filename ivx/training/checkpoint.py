"""Checkpoints: one Orbax object of state, data position and config, written whole or not at all.

The data position is the number of global batches used, so that it means the same on any number of
hosts. With it are stored fingerprints of all arrays (`ivx.training.fingerprint`): what is read back
is compared with them, and where it differs the checkpoint before is used.
"""

import dataclasses
import json
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ivx.errors import UserError
from ivx.models.definition import Params
from ivx.training import host_arrays, progress
from ivx.training.fingerprint import fingerprints
from ivx.training.state import TrainState

FOLDER = "checkpoints"
# Beside FOLDER: where checkpoints go that do not hold what was saved.
DAMAGED = "damaged"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state and the number of batches that went into it."""

    state: TrainState
    next_batch: int


class Checkpoints:
    """The checkpoints of one run; saves go on in the background.

    Args:
      workdir: of the run; they lie in its folder `checkpoints`.
      keep: how many are kept.
      config: text of the config, stored with each.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, config: str):
        self._config = json.loads(config)
        self._folder = (workdir / FOLDER).absolute()
        # What a kill left half-written is removed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Step of the newest checkpoint that was written to its end."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int) -> None:
        """Starts to write; waits only for the previous save."""
        stored = _stored(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(stored),
                data=ocp.args.JsonSave(_position(step, fingerprints(stored))),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(self, abstract: TrainState) -> Restored:
        """Reads the newest whole one into shapes and shardings of `abstract`, from whatever mesh.

        Newer ones that are damaged are moved to the folder `damaged` of the workdir, since the run
        will come by their steps again.

        Raises:
          UserError: all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        found, step = _read_newest_whole(self._folder, steps, _stored(abstract))
        damaged = [bad for bad in steps if bad > step]
        if damaged and jax.process_index() == 0:
            for bad in damaged:
                _set_aside(self._folder, bad)
        if damaged:
            _wait_for_all("damaged checkpoints set aside")
            self._manager.reload()
        return Restored(TrainState(**found), step)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


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
    folder = (workdir / FOLDER).absolute()
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
        manager.save(
            0,
            args=ocp.args.Composite(
                state=host_arrays.save_args({"params": params}),
                data=ocp.args.JsonSave(_position(0, fingerprints({"params": params}))),
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
    found, step = _read_newest_whole((workdir / FOLDER).absolute(), steps, {name: placed})
    return found[name], step


def stored_types(workdir: pathlib.Path) -> dict[str, str]:
    """Type of every parameter of the newest checkpoint, by its dotted path.

    Raises:
      UserError: there is no checkpoint.
    """
    place = (workdir / FOLDER).absolute() / str(latest_step(workdir)) / "state"
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
    folder = (workdir / FOLDER).absolute()
    found = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not found:
        raise UserError(
            f"{workdir} holds no whole checkpoint; `ivx train`, `ivx convert` and `ivx import-hf`"
            " write them"
        )
    return sorted(found, reverse=True)


class _Damaged(Exception):
    """A checkpoint does not hold what was saved; the message says how that shows."""


def _stored(state: TrainState) -> dict[str, Any]:
    """What of a state is on disk: all but what it does not have."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


def _position(step: int, sums: dict[str, int]) -> dict:
    """What is stored as `data`."""
    position = {"next_batch": step, "fingerprints": sums}
    return position | {"checksum": _checksum(position)}


def _checksum(position: dict) -> int:
    return zlib.crc32(json.dumps(position, sort_keys=True).encode())


def _read_newest_whole(folder: pathlib.Path, steps: list[int], abstract: Any) -> tuple[Any, int]:
    """The newest checkpoint that is what was saved, as `abstract` has it, and its step.

    All hosts find the same.

    Raises:
      UserError: there is none.
    """
    faults = []
    for step in steps:
        fault = ""
        try:
            found = _read(folder / str(step), step, abstract)
        except _Damaged as error:
            fault = str(error)
        if not _anywhere(bool(fault)):
            if faults:
                progress.note(f"GOES ON FROM THE CHECKPOINT BEFORE: step {step} is whole")
            return found, step
        found = None
        faults.append(f"step {step}: {fault or 'another host could not read it'}")
        progress.note(f"DAMAGED CHECKPOINT: {folder / str(step)}: {faults[-1]}")
    raise UserError(
        f"no checkpoint of {folder} is whole: {'; '.join(faults)};"
        " restore the folder from a copy, or begin anew in another --workdir"
    )


def _read(place: pathlib.Path, step: int, abstract: Any) -> Any:
    """State of one checkpoint, compared with what was saved.

    Raises:
      _Damaged: it is not what was saved.
    """
    try:
        position = ocp.JsonCheckpointHandler().restore(place / "data")
        expected = position.pop("checksum", None)
        if position["next_batch"] != step or expected not in (None, _checksum(position)):
            raise _Damaged("its data position is not what was saved")
        # Not through a checkpointer, whose barrier a host that fails would never reach.
        state = ocp.PyTreeCheckpointHandler().restore(
            place / "state",
            args=ocp.args.PyTreeRestore(
                abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"it cannot be read: {' '.join(str(error).split())[:300]}") from error
    sums = position.get("fingerprints")
    if sums is None:
        progress.note(f"{place} was written without checksums and is believed")
        return state
    differing = [name for name, value in fingerprints(state).items() if sums.get(name) != value]
    if differing:
        raise _Damaged(
            f"{len(differing)} of {len(sums)} arrays are not what was saved, {differing[0]} first"
        )
    return state


def _set_aside(folder: pathlib.Path, step: int) -> None:
    target = folder.parent / DAMAGED / str(step)
    target.parent.mkdir(exist_ok=True)
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{step}-{number}")
    (folder / str(step)).rename(target)
    progress.note(f"moved {folder / str(step)} to {target}")


def _anywhere(here: bool) -> bool:
    """Whether it holds on any host; all have to ask."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
