"""Restores the newest intact checkpoint, from one folder or several.

Next to the state lies its data position: the number of global batches used, which is independent of
the number of hosts, and the fingerprints of all arrays (`ivx.training.checkpoints.fingerprint`):

    data    {"next_batch": 200, "fingerprints": {"params.lm_head.kernel": 123, ...},
             "sources": {...}, "changes": [...], "checksum": 7}

`sources` says what the data sets were, `changes` which changes of data were accepted
(`ivx.training.data_changes`). Every restored array is compared with its fingerprint. If one differs
or cannot be read, the previous checkpoint is tried, with a warning. An error that says something
about this machine or its storage, such as too little memory, is no damage and ends the run.
"""

import gc
import json
import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from ivx import progress
from ivx.errors import UserError
from ivx.parallel import across_hosts
from ivx.training.checkpoints import fingerprint, read_errors
from ivx.training.checkpoints.array_reader import ArrayReader

# Folder next to `checkpoints` for damaged ones.
DAMAGED = "damaged"
# Seconds between attempts to read a checkpoint.
_PAUSES = (1.0, 5.0)


class Location(NamedTuple):
    """Where a checkpoint is stored: its folder, and its step."""

    folder: epath.Path
    step: int

    @property
    def path(self) -> epath.Path:
        """Path of the checkpoint."""
        return self.folder / str(self.step)


class Intact(NamedTuple):
    """A restored checkpoint: its state, where it is stored, and its `data` item."""

    state: Any
    location: Location
    data: dict[str, Any]


class _Stored(NamedTuple):
    """What was read of a checkpoint.

    Attributes:
      state: its arrays.
      sums: this host's part of the checksum of each array, as it was read.
      data: its `data` item, with the checksums that were saved, if there are any.
    """

    state: Any
    sums: dict[str, int]
    data: dict[str, Any]


def position(step: int, state: Any, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `data` item stored with a state; a collective call.

    Args:
      step: of the state.
      state: the state.
      facts: further entries.
    """
    data = {"next_batch": step, "fingerprints": fingerprint.fingerprints(state)} | (facts or {})
    return data | {"checksum": _checksum(data)}


@read_errors.without_late_reports()
def read_newest_intact(locations: Sequence[Location], abstract: Any) -> Intact:
    """Restores the first intact checkpoint; all hosts agree on which.

    Args:
      locations: newest first.
      abstract: shapes, dtypes and shardings to restore; may be a subset of what is stored.

    Raises:
      UserError: no checkpoint is intact, or the storage or the memory of this machine failed.
    """
    faults = []
    for location in locations:
        fault, stored = "", None
        try:
            stored = _read_with_retries(location, abstract)
        except Exception as error:  # damaged files raise errors of any type
            read_errors.raise_unless_damage(location.path, error)
            fault = f"it cannot be read: {read_errors.summary(error)}"
        # Computing fingerprints is collective, so all hosts must have read the state.
        if not _on_any_host(bool(fault)):
            fault = _difference(location, stored)
            if not _on_any_host(bool(fault)):
                if faults:
                    progress.note(f"FALLING BACK to an earlier checkpoint: step {location.step}")
                return Intact(stored.state, location, stored.data)
        # What was read until then must not stay in memory.
        del stored
        gc.collect()
        faults.append(f"step {location.step}: {fault or 'another host could not read it'}")
        progress.note(f"DAMAGED CHECKPOINT: {location.path}: {faults[-1]}")
    folders = ", ".join(dict.fromkeys(str(location.folder) for location in locations))
    raise UserError(
        f"no checkpoint in {folders} is intact: {'; '.join(faults)};"
        " restore the folder from a backup, or start over in another --workdir"
    )


def set_aside(damaged: Sequence[Location]) -> None:
    """Moves damaged checkpoints away, since the run will save these steps again."""
    if jax.process_index() == 0:
        for location in damaged:
            target, number = location.folder.parent / DAMAGED / str(location.step), 0
            target.parent.mkdir(parents=True, exist_ok=True)
            while target.exists():
                number += 1
                target = target.parent / f"{location.step}-{number}"
            location.path.rename(target)
            progress.note(f"moved {location.path} to {target}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints set aside")


def _read_with_retries(location: Location, abstract: Any) -> _Stored:
    """As `_read`, retried to tell damage from temporary storage errors."""
    for seconds in _PAUSES:
        try:
            return _read(location, abstract)
        except read_errors.OF_THIS_PROCESS:
            raise
        except Exception as error:
            summary = read_errors.summary(error)
            progress.note(f"{location.path} cannot be read, retrying in {seconds:g} s: {summary}")
            time.sleep(seconds)
    return _read(location, abstract)


def _read(location: Location, abstract: Any) -> _Stored:
    """One checkpoint, and the checksums of what was read and of what was saved."""
    data = ocp.JsonCheckpointHandler().restore(location.path / "data")
    if not isinstance(data, dict):
        raise ValueError("its data position is not an object")
    checksum = data.pop("checksum", None)
    if data["next_batch"] != location.step or checksum not in (None, _checksum(data)):
        raise ValueError("its data position is not what was saved")
    if not isinstance(data.get("fingerprints", {}), dict):
        raise ValueError("its checksums are not an object")
    reader = ArrayReader()
    # Not through a checkpointer: it has a barrier, which a failing host would never reach.
    with progress.waiting(f"reading the checkpoint of step {location.step}"):
        state = ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(
                (jax.Array, reader)
            )
        ).restore(
            location.path / "state",
            args=ocp.args.PyTreeRestore(
                abstract, restore_args=reader.arguments(abstract), partial_restore=True
            ),
        )
    _check_arrays(state, abstract)
    return _Stored(state, reader.sums_of(state), data)


def _check_arrays(state: Any, abstract: Any) -> None:
    """Checks that every array was restored; Orbax leaves those out that a damaged list lacks.

    Raises:
      ValueError: one was not, or has another shape or type.
    """
    pairs = zip(jax.tree.leaves_with_path(abstract), jax.tree.leaves(state), strict=True)
    for (path, expected), leaf in pairs:
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        if not is_array or (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{name} is missing, or has another shape or type")


def _difference(location: Location, stored: _Stored) -> str:
    """Describes how the state differs from what was saved; empty if it does not."""
    expected = stored.data.get("fingerprints")
    if expected is None:
        progress.note(f"{location.path} has no checksums and cannot be verified")
        return ""
    actual = fingerprint.across(stored.sums, fingerprint.spanning_hosts(stored.state))
    differing = [name for name, value in actual.items() if expected.get(name) != value]
    if not differing:
        return ""
    return (
        f"{len(differing)} of {len(actual)} arrays are not what was saved, the first is"
        f" {differing[0]}"
    )


def _checksum(data: dict) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def _on_any_host(condition: bool) -> bool:
    """Whether the condition holds on any host; a collective call."""
    return bool(across_hosts.largest([condition])[0])
