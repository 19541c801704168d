"""Named barriers over TCP that time out and report which processes arrived.

JAX aborts a process whose peers do not connect, without naming them. Here process 0 runs a server,
and every process, including process 0, reports to it. The server answers when all have arrived or
when the first of them times out:

    1 -> 0   {"barrier": "save/1", "count": 4, "process": 1, "host": "worker-1", "seconds": 600}
    0 -> 1   {"count": 4, "arrived": {"0": "worker-0", "1": "worker-1", "3": "worker-3"}}

A barrier that timed out stays failed: late processes get the same answer at once. A process with a
different count is not counted, but is told the count of process 0.
"""

import collections
import contextlib
import dataclasses
import json
import socket
import socketserver
import threading
import time
from collections.abc import Mapping

from ivx.errors import UserError

# Seconds between two attempts to connect to process 0, and grace for its answer after a timeout.
_RETRY_SECONDS = 1.0
_GRACE_SECONDS = 2.0


@dataclasses.dataclass
class _Barrier:
    """State of one barrier.

    Attributes:
      arrived: process -> host.
      failed: whether a process timed out.
      unanswered: number of processes that wait for the answer.
    """

    arrived: dict[int, str] = dataclasses.field(default_factory=dict)
    failed: bool = False
    unanswered: int = 0


class Rendezvous:
    """The client of one process, with the server in process 0.

    Args:
      address: host:port of process 0; port 0 selects a free port (process 0 only).
      count: number of processes.
      process: index of this process, 0 to count - 1.

    Raises:
      OSError: process 0 cannot listen at the port.
    """

    def __init__(self, address: str, count: int, process: int) -> None:
        host, port = address.rsplit(":", 1)
        self._host, self._port = host.strip("[]"), int(port)
        self._count, self._process = count, process
        self._server = None
        # Number of passes of each barrier; every pass needs a name of its own.
        self._passes: collections.Counter[str] = collections.Counter()
        if process == 0:
            self._server = _Server(self._port, count)
            self._host, self._port = "127.0.0.1", self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Port of the server."""
        return self._port

    def arrive(self, barrier: str, seconds: int | float) -> dict[int, str] | None:
        """Waits for all processes; returns process -> host of those that arrived in time.

        The result is None if the server in process 0 does not answer. The server may answer before
        process 0 itself has arrived.

        Args:
          barrier: name of the barrier.
          seconds: time limit.

        Raises:
          UserError: process 0 has a different number of processes.
        """
        self._passes[barrier] += 1
        message = {
            "barrier": f"{barrier}/{self._passes[barrier]}",
            "count": self._count,
            "process": self._process,
            "host": socket.gethostname(),
        }
        deadline = time.monotonic() + seconds
        # Process 0 is given a head start, so that others hear from it even if they came first.
        end = deadline + (_GRACE_SECONDS if self._process else 0)
        while (left := end - time.monotonic()) > 0:
            try:
                server = socket.create_connection((self._host, self._port), min(left, 10))
                with server:
                    count, arrived = _ask(server, message, max(end - time.monotonic(), 0))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                # Process 0 does not listen yet, or something else listens there.
                time.sleep(min(_RETRY_SECONDS, max(end - time.monotonic(), 0)))
                continue
            if count != self._count:
                raise UserError(
                    f"process {self._process} is one of {self._count} processes, but process 0 at"
                    f" {self._host}:{self._port} is one of {count}; set the same number of"
                    " processes on every host"
                )
            return arrived
        return None

    def close(self) -> None:
        """Stops the server; further calls have no effect."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _ask(
    server: socket.socket, message: Mapping[str, object], seconds: float
) -> tuple[int, dict[int, str]]:
    """Sends the arrival of a process; returns the count of process 0, and process -> host."""
    server.sendall((json.dumps({**message, "seconds": seconds}) + "\n").encode())
    server.settimeout(seconds + _GRACE_SECONDS)
    answer = json.loads(server.makefile().readline())
    arrived = {int(process): str(host) for process, host in answer["arrived"].items()}
    return int(answer["count"]), arrived


class _Server(socketserver.ThreadingTCPServer):
    """Collects the arrivals at each barrier."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, count: int) -> None:
        self.count = count
        self.request_queue_size = max(count, 5)
        self.barriers: dict[str, _Barrier] = collections.defaultdict(_Barrier)
        self.changed = threading.Condition()
        super().__init__(("", port), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    """Serves one process at one barrier."""

    # Seconds for a client to send its message.
    timeout = 5
    server: _Server

    def handle(self) -> None:
        try:
            message = json.loads(self.rfile.readline())
            name, process, host = message["barrier"], int(message["process"]), message["host"]
            seconds, count = float(message["seconds"]), message["count"]
        except (OSError, ValueError, KeyError, TypeError):
            # Not a process of this run, or a broken connection.
            return
        if count != self.server.count:
            self._answer({})
            return
        if not 0 <= process < count:
            return
        changed = self.server.changed
        with changed:
            barrier = self.server.barriers[name]
            if not barrier.failed:
                barrier.arrived[process] = host
            barrier.unanswered += 1
            changed.notify_all()
            complete = changed.wait_for(
                lambda: barrier.failed or len(barrier.arrived) == count, timeout=seconds
            )
            if not complete:
                barrier.failed = True
                changed.notify_all()
            if process == 0:
                # Process 0 may exit next, so the others are answered first.
                changed.wait_for(lambda: barrier.unanswered == 1, timeout=_GRACE_SECONDS)
            arrived = dict(barrier.arrived)
        self._answer(arrived)
        with changed:
            barrier.unanswered -= 1
            changed.notify_all()

    def _answer(self, arrived: Mapping[int, str]) -> None:
        answer = json.dumps({"count": self.server.count, "arrived": arrived}) + "\n"
        with contextlib.suppress(OSError):
            self.wfile.write(answer.encode())
