"""Multi-host start-up and barriers. Barriers time out and name the missing hosts.

How a process finds its peers:

    TPU slices on Google Cloud, GKE, Slurm, Open MPI   detected by `jax.distributed.initialize()`
    anything else                                      three environment variables on every host

With the variables, a rendezvous names hosts that did not start before JAX waits for them. Under a
scheduler JAX itself waits, and ends the process without naming them. On a single host nothing here
has an effect.
"""

import atexit
import importlib.util
import ipaddress
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from ivx.errors import UserError
from ivx.parallel.rendezvous import Rendezvous

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Time limit of the start; the hosts of a pod may start minutes apart.
START_SECONDS = 600
# A process that has not answered for this long is dead, and the others exit, too.
HEARTBEAT_SECONDS = 30
# Time limit of the first rendezvous after a scheduler has started all processes.
_CONNECT_SECONDS = 60
# A scheduler that starts several processes sets one of these; JAX reads the details.
_SCHEDULERS = (
    "MEGASCALE_COORDINATOR_ADDRESS",
    "TPU_PROCESS_ADDRESSES",
    "TPU_WORKER_HOSTNAMES",
    "SLURM_JOB_ID",
    "OMPI_MCA_orte_hnp_uri",
)
# Number of processes by scheduler. JAX would restrict even a single process to one GPU.
_TASK_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# IPv4 address and port that process 0 broadcasts if its peers cannot reach it.
_NO_ADDRESS = [0, 0, 0, 0, 0]
# Device files of TPUs, older and newer.
_TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")

# What JAX says if a scheduler did not start this process, as in an interactive allocation.
_UNDETECTED = (
    "coordinator_address should be defined",
    "Number of processes must be defined",
    "process id of the current process must be defined",
)

# Barriers of this run; None on a single host or if process 0 is unreachable for its peers.
_rendezvous: Rendezvous | None = None
# Process -> host.
_hosts: dict[int, str] = {}


def join(seconds: int = START_SECONDS) -> None:
    """Connects this process to the others of the run.

    Call this before JAX initializes its backends. Further calls have no effect.

    Args:
      seconds: time limit.

    Raises:
      UserError: the environment variables are inconsistent, process 0 cannot listen at its port,
        or a process did not start in time.
    """
    if jax.distributed.is_initialized() or not _is_multi_process(os.environ):
        return
    if variables := _from_environment(os.environ):
        _join_by_variables(*variables, seconds)
    else:
        _join_by_scheduler(seconds)


def wait(name: str, seconds: int) -> None:
    """Waits until every process has reached this point.

    Args:
      name: name of the barrier, for messages.
      seconds: time limit.

    Raises:
      UserError: a process did not arrive; the message names it and its host.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    if _rendezvous is None:
        multihost_utils.sync_global_devices(name)
        return
    arrived = _rendezvous.arrive(name, seconds)
    if arrived is None or len(arrived) < jax.process_count():
        raise UserError(_missing(arrived, jax.process_count(), name, seconds))


def _join_by_variables(address: str, count: int, process: int, seconds: int) -> None:
    """Names processes that do not start, then initializes JAX."""
    global _rendezvous
    if count == 1:
        return
    host, port = address.rsplit(":", 1)
    try:
        rendezvous = Rendezvous(f"{host}:{int(port) + 1}", count, process)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {int(port) + 1}, the one after that of {ADDRESS}:"
            f" {error.strerror or error}; end the process that uses the port, or set another port"
            " on every host"
        ) from error
    atexit.register(rendezvous.close)
    arrived = rendezvous.arrive("start", seconds)
    if arrived is None or len(arrived) < count:
        rendezvous.close()
        raise UserError(_not_started(arrived, count, process, address, seconds))
    jax.distributed.initialize(
        address,
        count,
        process,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        cluster_detection_method="deactivate",
    )
    _rendezvous = rendezvous
    _hosts.update(arrived)


def _join_by_scheduler(seconds: int) -> None:
    """Lets JAX detect the scheduler; process 0 then broadcasts the address of the rendezvous."""
    global _rendezvous
    if not os.environ.get(ADDRESS):
        # JAX would take an empty address for one.
        os.environ.pop(ADDRESS, None)
    try:
        jax.distributed.initialize(
            initialization_timeout=seconds, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:
        if not any(text in str(error) for text in _UNDETECTED):
            raise
        return
    count, process = jax.process_count(), jax.process_index()
    if count == 1:
        # No jax.distributed.shutdown() here: on CPUs, collectives of the backend still need it.
        _restore_sigterm()
        return
    rendezvous, address = _serve(count) if process == 0 else (None, _NO_ADDRESS)
    *ip, port = multihost_utils.broadcast_one_to_all(np.array(address, np.int32)).tolist()
    if port == 0:
        logging.warning(
            "process 0 found no address or port for its peers, so barriers have no time limit and"
            " do not name missing hosts; check that its host name has an address in the network"
        )
        return
    rendezvous = rendezvous or Rendezvous(f"{'.'.join(map(str, ip))}:{port}", count, process)
    arrived = rendezvous.arrive("start", _CONNECT_SECONDS) or {}
    # All processes must use the same kind of barrier.
    if np.min(multihost_utils.process_allgather(np.int32(len(arrived)))) < count:
        logging.warning(
            "process 0 is not reachable at port %d, so barriers have no time limit and do not name"
            " missing hosts; open the ports between hosts",
            port,
        )
        rendezvous.close()
        return
    atexit.register(rendezvous.close)
    _rendezvous = rendezvous
    _hosts.update(arrived)


def _restore_sigterm() -> None:
    """Replaces the handler of JAX's preemption service, which Python does not know, by the former.

    Only the main thread can do this.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _serve(count: int) -> tuple[Rendezvous | None, list[int]]:
    """The rendezvous of process 0 and its address; None and `_NO_ADDRESS` if peers have no way."""
    try:
        ip = _ip_address()
        rendezvous = Rendezvous("0.0.0.0:0", count, 0)
    except OSError as error:
        logging.warning("process 0 cannot serve its peers: %s", error)
        return None, _NO_ADDRESS
    return rendezvous, [*ip, rendezvous.port]


def _ip_address() -> list[int]:
    """The four bytes of the address from which this host reaches others; no packet is sent.

    Raises:
      OSError: the host has no such address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            address = probe.getsockname()[0]
        except OSError:
            address = socket.gethostbyname(socket.gethostname())
    if ipaddress.IPv4Address(address).is_loopback:
        raise OSError(f"{address} is an address only on this host")
    return [int(byte) for byte in address.split(".")]


def _missing(arrived: Mapping[int, str] | None, count: int, name: str, seconds: int) -> str:
    """The message for processes that did not reach a barrier; None if process 0 did not answer."""
    late = [0] if arrived is None else [p for p in range(count) if p not in arrived]
    names = ", ".join(f"{p} (on {_hosts.get(p, 'an unknown host')})" for p in late)
    return (
        f"waited {seconds} s at {name!r} for {_processes(late)} {names} of {count};"
        " check the last log lines there, then restart the run on all hosts:"
        " it resumes from its newest checkpoint"
    )


def _not_started(
    arrived: Mapping[int, str] | None, count: int, process: int, address: str, seconds: int
) -> str:
    """The message for processes that did not start; None if process 0 did not answer."""
    if arrived is None:
        return (
            f"process {process} of {count} could not reach process 0 at {address} for {seconds} s;"
            f" start process 0, or correct {ADDRESS}; the next port must be open, too"
        )
    late = [p for p in range(count) if p not in arrived]
    present = ", ".join(f"{p} on {arrived[p]}" for p in sorted(arrived))
    return (
        f"waited {seconds} s for {_processes(late)} {', '.join(map(str, late))} of {count}, which"
        f" did not start (started: {present}); start all of them with the same command"
    )


def _processes(indices: Sequence[int]) -> str:
    return "process" if len(indices) == 1 else "processes"


def _is_multi_process(environment: Mapping[str, str]) -> bool:
    """Whether this process may be one of several; JAX decides for schedulers and TPUs."""
    if _any_set((ADDRESS, COUNT, NUMBER), environment):
        return True
    if any(environment.get(name) == "1" for name in _TASK_COUNTS):
        return False
    if _any_set(_SCHEDULERS, environment):
        return True
    # On Google Cloud, the metadata server knows the other hosts of an attached TPU.
    return (
        "cpu" not in environment.get("JAX_PLATFORMS", "")
        and importlib.util.find_spec("libtpu") is not None
        and any(any(pathlib.Path("/dev").glob(name)) for name in _TPU_DEVICES)
    )


def _any_set(names: Iterable[str], environment: Mapping[str, str]) -> bool:
    return any(environment.get(name) for name in names)


def _from_environment(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """(address, count, process) of the three variables, or None if they are not set.

    Raises:
      UserError: only some are set, or their values are invalid.
    """
    values = {name: environment[name] for name in (ADDRESS, COUNT, NUMBER) if environment.get(name)}
    if not values:
        return None
    unset = [name for name in (ADDRESS, COUNT, NUMBER) if name not in values]
    if unset:
        raise UserError(
            f"{', '.join(values)} is set, but not {', '.join(unset)}; set all three on every host,"
            f" as in {ADDRESS}=10.0.0.2:8476 {COUNT}=4 {NUMBER}=0"
        )
    count, process = values[COUNT], values[NUMBER]
    if not (count.isdecimal() and process.isdecimal() and int(process) < int(count)):
        raise UserError(
            f"{COUNT}={count} and {NUMBER}={process} are invalid; set the number of processes, and"
            " for each process a different number from 0 to one less"
        )
    host, _, port = values[ADDRESS].rpartition(":")
    # The next port is used, too.
    if not (host and port.isdecimal() and 0 < int(port) < 65535):
        raise UserError(
            f"{ADDRESS}={values[ADDRESS]} has no host, or no port from 1 to 65534; set host:port of"
            " process 0, as 10.0.0.2:8476"
        )
    return values[ADDRESS], int(count), int(process)
