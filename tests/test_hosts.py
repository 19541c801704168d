"""Multi-host start-up and barriers: timeouts, and the names of missing hosts."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
import pytest

from ivx.errors import UserError
from ivx.parallel import hosts, rendezvous
from ivx.parallel.rendezvous import Rendezvous
from tests.multi_process import launch, steps


@contextlib.contextmanager
def server(count: int) -> Iterator[Rendezvous]:
    """The rendezvous of process 0 of `count`."""
    first = Rendezvous("127.0.0.1:0", count, 0)
    try:
        yield first
    finally:
        first.close()


def arrive_all(
    first: Rendezvous, processes: Iterable[int], count: int, seconds: float
) -> dict[int, dict[int, str]]:
    """The answer that each of these processes gets at a barrier; threads stand in for processes."""
    address = f"127.0.0.1:{first.port}"
    clients = {p: Rendezvous(address, count, p) if p else first for p in processes}
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        answers = {p: pool.submit(c.arrive, "save", seconds) for p, c in clients.items()}
        return {p: answer.result() for p, answer in answers.items()}


def test_all_processes_learn_the_hosts_of_all():
    with server(4) as first:
        answers = arrive_all(first, range(4), 4, seconds=30)
    here = socket.gethostname()
    assert answers == {p: dict.fromkeys(range(4), here) for p in range(4)}


def test_arrived_processes_learn_who_is_missing():
    with server(4) as first:
        answers = arrive_all(first, [0, 1, 3], 4, seconds=2)
    assert all(set(arrived) == {0, 1, 3} for arrived in answers.values())


def test_failed_barrier_stays_failed_for_late_processes():
    with server(2) as first:
        assert set(first.arrive("save", 0.1)) == {0}
        late = Rendezvous(f"127.0.0.1:{first.port}", 2, 1)
        begin = time.monotonic()
        assert set(late.arrive("save", 60)) == {0}
        assert time.monotonic() - begin < 30


def test_barrier_with_the_same_name_can_be_passed_again():
    with server(2) as first:
        second = Rendezvous(f"127.0.0.1:{first.port}", 2, 1)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                other = pool.submit(second.arrive, "save", 30)
                assert set(first.arrive("save", 30)) == set(other.result()) == {0, 1}


def test_process_gets_no_answer_without_process_0():
    client = Rendezvous(f"127.0.0.1:{launch.free_ports()}", 3, 2)
    assert client.arrive("start", 0.5) is None


def test_server_answers_before_process_0_arrives(monkeypatch):
    """All late processes are named, not only process 0."""
    monkeypatch.setattr(rendezvous, "_GRACE_SECONDS", 0.5)
    with server(3) as first:
        arrived = Rendezvous(f"127.0.0.1:{first.port}", 3, 1).arrive("save", 0.5)
    assert set(arrived) == {1}
    assert "for processes 0 (on an unknown host), 2 (" in hosts._missing(arrived, 3, "save", 1)


def test_process_with_another_count_is_told():
    with server(2) as first:
        client = Rendezvous(f"127.0.0.1:{first.port}", 3, 1)
        with pytest.raises(UserError, match=r"process 1 is one of 3 .* is one of 2; "):
            client.arrive("start", 30)


def test_server_can_be_closed_twice():
    with server(2) as first:
        first.close()


def test_port_in_use_is_named():
    port = launch.free_ports()
    with (
        socket.create_server(("", port + 1)),
        pytest.raises(UserError, match=f"listen at port {port + 1}, .*: Address already in use; "),
    ):
        hosts._join_by_variables(f"127.0.0.1:{port}", 2, 0, seconds=1)


def test_strangers_at_the_port_are_not_counted():
    """A port scan, or a process of another run, neither ends nor satisfies a barrier."""
    other_run = {"barrier": "start/1", "count": 5, "process": 1, "host": "x", "seconds": 1}
    with server(2) as first, concurrent.futures.ThreadPoolExecutor(1) as pool:
        arrived = pool.submit(first.arrive, "start", 2)
        for message in (b"GET / HTTP/1.0\r\n\r\n", json.dumps(other_run).encode() + b"\n", b"[]\n"):
            with socket.create_connection(("127.0.0.1", first.port), timeout=5) as connection:
                connection.sendall(message)
        assert set(arrived.result()) == {0}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS, "),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "a different number from 0 to one less",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS=a has no host, or no port",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:b", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS=a:b has no host, or no port",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:65535", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "no port from 1 to 65534",
        ),
    ],
    ids=["one of three", "number too large", "no port", "port of letters", "no next port"],
)
def test_inconsistent_variables_are_refused(environment, sentence):
    with pytest.raises(UserError, match=sentence):
        hosts._from_environment(environment)


def test_single_task_of_a_scheduler_is_not_multi_process():
    """JAX would restrict the process to one of its GPUs."""
    slurm = {"SLURM_JOB_ID": "7", "JAX_PLATFORMS": "cpu"}
    assert hosts._is_multi_process(slurm | {"SLURM_NTASKS": "2"})
    assert not hosts._is_multi_process(slurm | {"SLURM_NTASKS": "1"})


def test_empty_variables_count_as_absent():
    empty = dict.fromkeys((hosts.ADDRESS, hosts.COUNT, hosts.NUMBER, *hosts._SCHEDULERS), "")
    assert not hosts._is_multi_process(empty | {"JAX_PLATFORMS": "cpu"})
    assert hosts._from_environment(empty) is None


@pytest.mark.parametrize("unset", ["coordinator_address", "num_processes", "process_id"])
def test_process_that_no_scheduler_started_is_single(unset):
    """JAX refuses each of the three with a text of its own, and never gets an empty address."""
    program = (
        "import os, jax\n"
        "from ivx.parallel import hosts\n"
        "initialize = jax.distributed.initialize\n"
        "def refuse(**limits):\n"
        "    assert hosts.ADDRESS not in os.environ\n"
        f"    given = {{'coordinator_address': 'a:1', 'num_processes': 2, 'process_id': 1}}\n"
        f"    given['{unset}'] = None\n"
        "    initialize(**given, **limits, cluster_detection_method='deactivate')\n"
        "jax.distributed.initialize = refuse\n"
        "hosts._join_by_scheduler(1)\n"
    )
    environment = os.environ | {hosts.ADDRESS: "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=launch.ROOT, env=environment, check=True, timeout=300)


@pytest.mark.slow
def test_single_process_of_a_scheduler_ends_on_sigterm():
    """JAX's preemption service would catch the signal."""
    program = (
        "import os, signal, jax, time\n"
        "from ivx.parallel import hosts\n"
        "hosts._is_multi_process = lambda environment: True\n"
        "hosts.join(60)\n"
        "hosts.join(60)\n"
        "sum_devices = jax.pmap(lambda x: jax.lax.psum(x, 'device'), axis_name='device')\n"
        "assert sum_devices(jax.numpy.ones(2))[0] == 2\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(5)\n"
    )
    slurm = {
        "SLURM_JOB_ID": "7",
        "JAX_COORDINATOR_PORT": str(launch.free_ports()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=launch.ROOT, env=os.environ | slurm, capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_loopback_address_is_refused(monkeypatch):
    def unreachable(*arguments: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(hosts.socket.socket, "connect", unreachable)
    monkeypatch.setattr(hosts.socket, "gethostbyname", lambda name: "127.0.1.1")
    with pytest.raises(OSError, match=r"127\.0\.1\.1 is an address only on this host"):
        hosts._ip_address()


@pytest.mark.parametrize("process", [0, 1])
def test_processes_fall_back_without_an_address(monkeypatch, process):
    """Only process 0 looks for its address; all of them see that it broadcasts none."""
    sent = []

    def find() -> list[int]:
        assert process == 0
        raise socket.gaierror("unknown name")

    def broadcast(address: np.ndarray) -> np.ndarray:
        sent.append(address.tolist())
        return np.zeros_like(address)

    monkeypatch.setattr(hosts, "_ip_address", find)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **limits: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", broadcast)
    hosts._join_by_scheduler(1)
    assert sent == [[0, 0, 0, 0, 0]]
    assert hosts._rendezvous is None


def test_single_host_waits_for_nobody(monkeypatch):
    for name in (hosts.ADDRESS, hosts.COUNT, hosts.NUMBER, *hosts._SCHEDULERS):
        monkeypatch.delenv(name, raising=False)
    hosts.join(seconds=1)
    hosts.wait("start", seconds=1)


def test_messages_name_processes_that_did_not_start():
    arrived = {0: "host-a", 2: "host-c"}
    message = hosts._not_started(arrived, 4, 2, "host-a:8476", 600)
    assert "processes 1, 3 of 4, which did not start (started: 0 on host-a, 2 on host-c)" in message
    message = hosts._not_started(None, 4, 3, "host-a:8476", 9)
    assert "process 3 of 4 could not reach process 0 at host-a:8476" in message


def test_messages_name_process_0_if_it_does_not_answer():
    message = hosts._missing(None, 4, "save", 9)
    assert "waited 9 s at 'save' for process 0 (on an unknown host) of 4" in message


@pytest.mark.slow
def test_process_that_misses_a_barrier_is_named():
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
def test_several_processes_train_as_one(count, sizes):
    """Also if two processes hold one pack, and each holds a part of its patches."""
    arguments = [f"{name}={size}" for name, size in sizes.items()]
    processes = launch.launch("tests.multi_process.steps", arguments, count)
    outputs = [process.communicate(timeout=3000) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs[0][1][-3000:]
    losses = [json.loads(out.splitlines()[-1])["losses"] for out, _ in outputs]
    single = steps.losses(sizes)
    assert all(process_losses == losses[0] for process_losses in losses)
    assert losses[0] == pytest.approx(single, rel=1e-6)
