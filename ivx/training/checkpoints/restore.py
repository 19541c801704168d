"""Restores the newest intact checkpoint, from one folder or several.

Next to the state lies its data position: the number of global batches used, which is independent of
the number of hosts, and the fingerprints of all arrays (`ivx.training.checkpoints.fingerprint`):

    data    {"next_batch": 200, "fingerprints": {"params.lm_head.kernel": 123, ...}, "checksum": 7}

Every restored array is compared with its fingerprint. If one differs or cannot be read, the
previous checkpoint is tried, with a warning.
"""

import json
import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from ivx.errors import UserError
from ivx.parallel import across_hosts
from ivx.training import progress
from ivx.training.checkpoints.fingerprint import fingerprints

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


def position(step: int, state: Any) -> dict:
    """The `data` item stored with a state; a collective call."""
    data = {"next_batch": step, "fingerprints": fingerprints(state)}
    return data | {"checksum": _checksum(data)}


def read_newest_intact(locations: Sequence[Location], abstract: Any) -> tuple[Any, Location]:
    """Restores the first intact checkpoint; all hosts agree on which.

    Args:
      locations: newest first.
      abstract: shapes, dtypes and shardings to restore; may be a subset of what is stored.

    Raises:
      UserError: no checkpoint is intact.
    """
    faults = []
    for location in locations:
        fault, state, expected = "", None, None
        try:
            state, expected = _read_with_retries(location, abstract)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fault = f"it cannot be read: {' '.join(str(error).split())[:300]}"
        # Computing fingerprints is collective, so all hosts must have read the state.
        if not _on_any_host(bool(fault)):
            fault = _difference(location, state, expected)
            if not _on_any_host(bool(fault)):
                if faults:
                    progress.note(f"FALLING BACK to an earlier checkpoint: step {location.step}")
                return state, location
        del state
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


def _read_with_retries(location: Location, abstract: Any) -> tuple[Any, dict[str, int] | None]:
    """As `_read`, retried to tell damage from temporary storage errors."""
    for seconds in _PAUSES:
        try:
            return _read(location, abstract)
        except (OSError, ValueError) as error:
            summary = " ".join(str(error).split())[:200]
            progress.note(f"{location.path} cannot be read, retrying in {seconds:g} s: {summary}")
            time.sleep(seconds)
    return _read(location, abstract)


def _read(location: Location, abstract: Any) -> tuple[Any, dict[str, int] | None]:
    """State and stored fingerprints of one checkpoint."""
    data = ocp.JsonCheckpointHandler().restore(location.path / "data")
    checksum = data.pop("checksum", None)
    if data["next_batch"] != location.step or checksum not in (None, _checksum(data)):
        raise ValueError("its data position is not what was saved")
    # Not through a checkpointer: it has a barrier, which a failing host would never reach.
    state = ocp.PyTreeCheckpointHandler().restore(
        location.path / "state",
        args=ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        ),
    )
    return state, data.get("fingerprints")


def _difference(location: Location, state: Any, expected: dict[str, int] | None) -> str:
    """Describes how the state differs from what was saved; empty if it does not."""
    if expected is None:
        progress.note(f"{location.path} has no checksums and cannot be verified")
        return ""
    differing = [name for name, value in fingerprints(state).items() if expected.get(name) != value]
    if not differing:
        return ""
    return (
        f"{len(differing)} of {len(expected)} arrays are not what was saved, the first is"
        f" {differing[0]}"
    )


def _checksum(data: dict) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def _on_any_host(condition: bool) -> bool:
    """Whether the condition holds on any host; a collective call."""
    return bool(across_hosts.largest([condition])[0])
