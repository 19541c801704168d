"""Signals heard at once, even while the main thread is inside a C++ call.

Python runs a handler when the main thread is back in Python code, which a compilation or a step may
delay by minutes; and what a handler raises inside a callback of XLA is lost. Python writes the
number of each signal to a file descriptor at once. A thread reads it here.
"""

import contextlib
import signal
import socket
import threading
import types
from collections.abc import Callable, Iterator, Sequence

Handler = Callable[[int, types.FrameType | None], object]


def ignored(number: int, frame: types.FrameType | None) -> None:
    """A handler in the main thread that leaves all to the listener."""


@contextlib.contextmanager
def heard(
    numbers: Sequence[int], listener: Callable[[int], None], handler: Handler = ignored
) -> Iterator[None]:
    """Calls a listener with the number of each signal that arrives inside the `with` block.

    Python allows handlers in the main thread only; in another thread nothing happens. A signal that
    the process was started to ignore stays ignored, as Ctrl-C in a job that a script runs with `&`.

    Args:
      numbers: the signals.
      listener: called on a thread of its own, one signal after the other.
      handler: what the main thread runs, as soon as it can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    threading.Thread(target=_listen, args=(receiver, numbers, listener), daemon=True).start()
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # None is a handler that was not installed from Python.
    former = {number: signal.signal(number, handler) or signal.SIG_DFL for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(descriptor)
        sender.close()


def _listen(
    receiver: socket.socket, numbers: Sequence[int], listener: Callable[[int], None]
) -> None:
    """Ends when the other side is closed."""
    with receiver:
        while byte := receiver.recv(1):
            if byte[0] in numbers:
                listener(byte[0])
