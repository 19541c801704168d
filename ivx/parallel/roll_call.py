"""Are all processes of a run there? Asked before JAX joins them: JAX ends a process that waits in
vain, without a word about whom it waited for.

Process 0 listens; the others call, and say their number and host until they are heard. When all
have called, or time is up, process 0 tells everyone who is missing:

    1 -> 0   {"number": 1, "count": 4, "host": "worker-1"}
    0 -> 1   {"hosts": {"0": "worker-0", "1": "worker-1", "3": "worker-3"}}
"""

import contextlib
import json
import socket
import time

# Seconds between two calls to a process 0 that does not answer yet.
_AGAIN = 1.0


def roll_call(address: str, count: int, number: int, seconds: float) -> dict[int, str]:
    """Process -> host of all that came.

    Args:
      address: host:port at which process 0 listens.
      count: processes that are to come.
      number: of this process, 0 to count - 1.
      seconds: the longest to wait; process 0 waits somewhat less, so that its answer still comes.
    """
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + seconds
    if number == 0:
        return _listen(int(port), count, until)
    return _call(host.strip("[]"), int(port), count, number, until + 2 * _AGAIN)


def _listen(port: int, count: int, until: float) -> dict[int, str]:
    came, lines = {0: socket.gethostname()}, []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port), backlog=count))
        while len(came) < count and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                caller = stack.enter_context(server.accept()[0])
                caller.settimeout(5)
                said = json.loads(caller.makefile().readline())
                if said["count"] == count:
                    came[said["number"]] = said["host"]
                    lines.append(caller)
            except (OSError, ValueError, KeyError, TypeError):
                # Whoever else knocked at this port, or broke off, is not counted.
                continue
        answer = (json.dumps({"hosts": came}) + "\n").encode()
        for caller in lines:
            with contextlib.suppress(OSError):
                caller.sendall(answer)
    return came


def _call(host: str, port: int, count: int, number: int, until: float) -> dict[int, str]:
    """Calls until it is heard; without an answer, nobody but this process is known to be there."""
    mine = {"number": number, "count": count, "host": socket.gethostname()}
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 10)) as line:
                line.sendall((json.dumps(mine) + "\n").encode())
                line.settimeout(max(until - time.monotonic(), _AGAIN))
                if heard := line.makefile().readline():
                    return {int(one): where for one, where in json.loads(heard)["hosts"].items()}
        except (OSError, ValueError):
            pass
        time.sleep(min(_AGAIN, max(until - time.monotonic(), 0)))
    return {number: mine["host"]}
