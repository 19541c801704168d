"""Several processes as one machine, and who is named when one of them is missing."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest

from ivx.errors import UserError
from ivx.parallel import hosts, roll_call
from tests.multi_process import launch, steps


def call_all(numbers, count: int, seconds: float) -> dict[int, dict[int, str]]:
    """What each of these processes hears, threads standing in for them."""
    address = f"127.0.0.1:{launch.free_ports()}"
    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        calls = {
            number: pool.submit(roll_call.roll_call, address, count, number, seconds)
            for number in numbers
        }
        return {number: call.result() for number, call in calls.items()}


def test_all_hear_of_all():
    heard = call_all(range(4), 4, seconds=30)
    here = socket.gethostname()
    assert heard == {number: dict.fromkeys(range(4), here) for number in range(4)}


def test_those_that_came_hear_who_did_not():
    heard = call_all([0, 1, 3], 4, seconds=2)
    assert all(set(came) == {0, 1, 3} for came in heard.values())


def test_without_process_0_nobody_is_heard_of():
    assert set(call_all([2], 3, seconds=1)[2]) == {2}


def connected(port: int) -> socket.socket:
    """A connection, as soon as somebody listens."""
    until = time.monotonic() + 3
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def test_strangers_at_the_port_are_not_counted():
    """A port scan, or a process of another run, neither ends nor fools the roll call."""
    port = launch.free_ports()
    found = {}
    server = threading.Thread(
        target=lambda: found.update(roll_call.roll_call(f"127.0.0.1:{port}", 2, 0, 4))
    )
    server.start()
    for said in (b"GET / HTTP/1.0\r\n\r\n", b'{"number": 1, "count": 5, "host": "x"}\n', b"[]\n"):
        with connected(port) as line:
            line.sendall(said)
    server.join()
    assert set(found) == {0}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES given, JAX_COORDINATOR_ADDRESS, JAX_PRO"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "another number from 0 to one less",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS=a has no port",
        ),
    ],
    ids=["one of three", "number too large", "no port"],
)
def test_variables_that_do_not_fit_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        hosts._told(given)


def test_one_machine_alone_waits_for_nobody(monkeypatch):
    for name in (hosts.ADDRESS, hosts.COUNT, hosts.NUMBER, *hosts._SCHEDULERS):
        monkeypatch.delenv(name, raising=False)
    hosts.join(seconds=1)
    hosts.wait("start", seconds=1)


def test_who_never_started_is_named():
    came = {0: "host-a", 2: "host-c"}
    said = hosts._absent(came, 4, 2, "host-a:8476", 600)
    assert "processes 1, 3 of 4, which did not start (there are 0 on host-a, 2 on host-c)" in said
    assert "process 3 of 4 called host-a:8476" in hosts._absent({3: "d"}, 4, 3, "host-a:8476", 9)


@pytest.mark.slow
def test_who_does_not_come_to_a_barrier_is_named():
    first, second = launch.launch("tests.multi_process.late", [], 2)
    out, error = first.communicate(timeout=600)
    second.kill()
    second.wait()
    assert first.returncode == 2, error
    assert f"waited 2 s at 'save' for process 1 (on {socket.gethostname()}) of 2" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "sizes"),
    [(2, {"fsdp": 4, "tensor": 2}), (4, {"replica": 2, "context": 4}), (4, {"fsdp": 8})],
    ids=str,
)
def test_processes_train_as_one_does(count, sizes):
    """Also where two processes hold one pack, and each a part of its patches."""
    words = [f"{name}={size}" for name, size in sizes.items()]
    started = launch.launch("tests.multi_process.steps", words, count)
    ended = [process.communicate(timeout=3000) for process in started]
    assert all(process.returncode == 0 for process in started), ended[0][1][-3000:]
    together = [json.loads(out.splitlines()[-1])["losses"] for out, _ in ended]
    alone = steps.losses(sizes)
    assert all(one == together[0] for one in together)
    assert together[0] == pytest.approx(alone, rel=1e-6)
