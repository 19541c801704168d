"""Reading checkpoints back: the newest that is what was saved, of one folder or several.

Beside the state lies its data position: the number of global batches used, which means the same on
any number of hosts, and the fingerprints of all arrays (`ivx.training.fingerprint`):

    data    {"next_batch": 200, "fingerprints": {"params.lm_head.kernel": 123, ...}, "checksum": 7}

What is read is compared with them. Where it differs, or cannot be read, the checkpoint before is
taken, and that is said.
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
from ivx.parallel import over_hosts
from ivx.training import progress
from ivx.training.fingerprint import fingerprints

# Beside the folder of checkpoints: where those go that do not hold what was saved.
DAMAGED = "damaged"
# Seconds between attempts to read a checkpoint.
_PAUSES = (1.0, 5.0)


class Place(NamedTuple):
    """A checkpoint on disk: the folder that holds it, and its step."""

    folder: epath.Path
    step: int

    @property
    def path(self) -> epath.Path:
        return self.folder / str(self.step)


def position(step: int, state: Any) -> dict:
    """What is stored as `data` beside a state; all hosts have to ask."""
    found = {"next_batch": step, "fingerprints": fingerprints(state)}
    return found | {"checksum": _checksum(found)}


def read_newest_whole(places: Sequence[Place], abstract: Any) -> tuple[Any, Place]:
    """The first of these checkpoints that is what was saved, and which it is.

    All hosts find the same.

    Args:
      places: newest first.
      abstract: shapes, dtypes and shardings of what is wanted; may be a part of what is there.

    Raises:
      UserError: none is.
    """
    faults = []
    for place in places:
        fault, state, sums = "", None, None
        try:
            state, sums = _read_patiently(place, abstract)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fault = f"it cannot be read: {' '.join(str(error).split())[:300]}"
        # Hosts compare together, so that all of them must have come so far.
        if not _anywhere(bool(fault)):
            fault = _difference(place, state, sums)
            if not _anywhere(bool(fault)):
                if faults:
                    progress.note(f"GOES ON FROM THE CHECKPOINT BEFORE: step {place.step} is whole")
                return state, place
        del state
        faults.append(f"step {place.step}: {fault or 'another host could not read it'}")
        progress.note(f"DAMAGED CHECKPOINT: {place.path}: {faults[-1]}")
    folders = ", ".join(dict.fromkeys(str(place.folder) for place in places))
    raise UserError(
        f"no checkpoint of {folders} is whole: {'; '.join(faults)};"
        " restore the folder from a copy, or begin anew in another --workdir"
    )


def set_aside(damaged: Sequence[Place]) -> None:
    """Moves checkpoints out of the way of a run that will come by their steps again."""
    if jax.process_index() == 0:
        for place in damaged:
            target, number = place.folder.parent / DAMAGED / str(place.step), 0
            target.parent.mkdir(parents=True, exist_ok=True)
            while target.exists():
                number += 1
                target = target.parent / f"{place.step}-{number}"
            place.path.rename(target)
            progress.note(f"moved {place.path} to {target}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints set aside")


def _read_patiently(place: Place, abstract: Any) -> tuple[Any, dict[str, int] | None]:
    """As `_read`; storage that fails is asked again, since damage stays and a hiccup does not."""
    for seconds in _PAUSES:
        try:
            return _read(place, abstract)
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            progress.note(f"{place.path} cannot be read, tried again in {seconds:g} s: {said}")
            time.sleep(seconds)
    return _read(place, abstract)


def _read(place: Place, abstract: Any) -> tuple[Any, dict[str, int] | None]:
    """State and fingerprints of one checkpoint."""
    found = ocp.JsonCheckpointHandler().restore(place.path / "data")
    expected = found.pop("checksum", None)
    if found["next_batch"] != place.step or expected not in (None, _checksum(found)):
        raise ValueError("its data position is not what was saved")
    # Not through a checkpointer, whose barrier a host that fails would never reach.
    state = ocp.PyTreeCheckpointHandler().restore(
        place.path / "state",
        args=ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        ),
    )
    return state, found.get("fingerprints")


def _difference(place: Place, state: Any, sums: dict[str, int] | None) -> str:
    """How the state departs from what was saved; nothing if it does not."""
    if sums is None:
        progress.note(f"{place.path} was written without checksums and is believed")
        return ""
    differing = [name for name, value in fingerprints(state).items() if sums.get(name) != value]
    if not differing:
        return ""
    return f"{len(differing)} of {len(sums)} arrays are not what was saved, {differing[0]} first"


def _checksum(found: dict) -> int:
    return zlib.crc32(json.dumps(found, sort_keys=True).encode())


def _anywhere(here: bool) -> bool:
    """Whether it holds on any host; all have to ask."""
    return bool(over_hosts.largest([here])[0])
