"""Worker processes that end with the process that started them, whatever ends it.

Ctrl-C in a terminal reaches every process; the workers leave it to their parent. A worker whose
parent was killed would go on writing its file while the next start writes the same one.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from multiprocessing import connection, context


class _Worker(context.SpawnProcess):
    """A process that never sees SIGINT, from its first instruction on."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(context.SpawnContext):
    Process = _Worker


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[futures.Executor]:
    """A pool of spawned processes; when the `with` block fails, they are killed in mid-work."""
    pool = futures.ProcessPoolExecutor(workers, _Context(), initializer=_watch_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if isinstance(child, _Worker):
                child.kill()
        raise
    finally:
        pool.shutdown()


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
