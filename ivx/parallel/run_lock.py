"""The lock of a workdir for all processes of one run: process 0 holds it for the others."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from ivx import folder_lock
from ivx.errors import UserError
from ivx.parallel import across_hosts, hosts

# Longer than a stranger's lock is watched.
_SECONDS = 600


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a workdir; a collective call.

    Raises:
      UserError: another run holds it; on all processes.
      OSError: process 0 cannot write there.
    """
    refusal = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(folder_lock.inside(workdir))
            except (UserError, OSError) as error:
                refusal = error
        hosts.wait("the lock of the workdir", _SECONDS)
        if across_hosts.gathered([refusal is not None])[0, 0]:
            # Process 0 must not end before the others know.
            hosts.wait("the end", _SECONDS)
            raise refusal or UserError(
                f"process 0 could not lock {workdir} for this run; its message says why"
            )
        yield
