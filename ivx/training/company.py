"""Processes that train together: one that fails does not wait for the others, nor they for it.

Closing checkpoints and leaving JAX's runtime in good order are barriers; whoever comes to one alone
waits for minutes. So a process that fails says why and is gone, and those that lose it say that:

    its own fault                 the error, and its code: 2 of what the user can mend, else 1
    another process has gone      75, as after SIGTERM: the same command goes on, on all hosts
"""

import os
import re
import sys
import traceback
from collections.abc import Callable

import jax

from ivx.errors import Interrupted, UserError
from ivx.training.stability import RollBack

# What JAX says of its own memory or programs; all else comes of the network between processes.
_OWN = re.compile(
    r"RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED|.{0,200}(mosaic|compil)", re.I
)


def leave_on_failure(
    kind,
    error,
    trace,
    explain: Callable[[BaseException], BaseException] = lambda error: error,
    end: Callable[[int], None] = os._exit,
) -> bool:
    """For `contextlib.ExitStack.push`; does nothing where this is the only process.

    What all processes do together, going back to a checkpoint or ending on SIGTERM, is no failure.

    Args:
      kind: of the error, as `__exit__` is given it; unused.
      error: that ends the run, or None.
      trace: unused.
      explain: from an error to one that says more, or the same.
      end: how the process is ended.
    """
    del kind, trace
    # Asked in this order: counting processes makes JAX look for devices.
    if error is None or isinstance(error, Interrupted | RollBack):
        return False
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return False
    number = jax.process_index()
    try:
        error = explain(error)
    except Exception:
        # What follows is said of the error itself.
        traceback.print_exc()
    if isinstance(error, UserError):
        sentence, code = str(error), 2
    elif isinstance(error, jax.errors.JaxRuntimeError) and not _OWN.match(str(error)):
        said = " ".join(str(error).split())[:200]
        sentence, code = (
            f"process {number} of {jax.process_count()} lost another process of this run ({said});"
            " look at what that one said last; the same command on all hosts goes on from the"
            " newest checkpoint",
            Interrupted.EXIT_CODE,
        )
    else:
        traceback.print_exception(error)
        sentence, code = f"process {number} of {jax.process_count()} failed: {error!r}", 1
    print(f"ivx: {sentence}", file=sys.stderr, flush=True)
    end(code)
    return False
