"""Failures in multi-process runs: a process that fails exits at once instead of waiting for others.

Closing checkpoints and shutting down JAX's runtime are barriers, at which a process that is alone
waits for minutes. A failing process therefore prints the reason and exits, and the processes that
lose it print that:

    its own error                 the error; exit code 2 if the user can fix it, else 1
    another process exited        75, as after SIGTERM: rerunning the command on all hosts resumes
"""

import os
import re
import sys
import traceback
import types
from collections.abc import Callable

import jax

from data_pipelines import disk_full
from ivx.errors import Interrupted, UserError
from ivx.training.health.bad_steps import RollBack

# JAX runtime errors about this process's memory or programs; all others come from the network
# between processes.
_LOCAL_ERROR = re.compile(
    r"RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED|.{0,200}(mosaic|compil)", re.I
)


def leave_on_failure(
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
    explain: Callable[[BaseException], BaseException] = lambda error: error,
    end: Callable[[int], None] = os._exit,
) -> bool:
    """A callback for `contextlib.ExitStack.push`; does nothing in a single-process run.

    Rollbacks and SIGTERM are not failures: all processes handle them together. Ctrl-C before the
    first step stops one process alone.

    Args:
      kind: type of the error; unused.
      error: the error that ends the run, or None.
      trace: unused.
      explain: from an error to a more informative one, or the same.
      end: terminates the process.
    """
    del kind, trace
    # In this order, because counting processes initialises JAX's devices.
    by_hand = isinstance(error, Interrupted) and isinstance(error.__cause__, KeyboardInterrupt)
    if error is None or (isinstance(error, Interrupted | RollBack) and not by_hand):
        return False
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return False
    index = jax.process_index()
    try:
        error = explain(error)
    except Exception:
        # The message below then describes the original error.
        traceback.print_exc()
    if isinstance(error, UserError):
        message, code = str(error), 2
    elif by_hand:
        message, code = str(error), Interrupted.BY_HAND
    elif full := disk_full.sentence(error):
        message, code = full, 2
    elif isinstance(error, jax.errors.JaxRuntimeError) and not _LOCAL_ERROR.match(str(error)):
        summary = " ".join(str(error).split())[:200]
        message, code = (
            f"process {index} of {jax.process_count()} lost another process of this run"
            f" ({summary}); see the last message of that process, and rerun the same command on all"
            " hosts to resume from the newest checkpoint",
            Interrupted.EXIT_CODE,
        )
    else:
        traceback.print_exception(error)
        message, code = f"process {index} of {jax.process_count()} failed: {error!r}", 1
    print(f"ivx: {message}", file=sys.stderr, flush=True)
    end(code)
    return False
