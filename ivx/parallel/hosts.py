"""Several hosts as one machine: how they find each other, and how they wait, but not for ever.

Every process says where it runs when it starts, and leaves its number at each barrier it comes to;
who is waited for in vain is named by that. On a single host nothing here does anything.

How a process learns of the others:

    TPU slices on Google Cloud, GKE, Slurm, Open MPI   JAX finds out by itself
    anything else                                      the three variables below, on every host
"""

import importlib.util
import os
import pathlib
import socket
from collections.abc import Mapping, Sequence

import jax

# What schedulers tell, and barriers with a limit, are not public.
from jax._src import clusters, distributed

from ivx.errors import UserError
from ivx.parallel.roll_call import roll_call

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Seconds to wait for all to come: hosts of a pod start minutes apart.
START_SECONDS = 600
# Seconds after which a process that no longer answers is dead, and the others end too.
HEARTBEAT_SECONDS = 30
# One of these is set where a scheduler starts several processes; JAX reads the rest itself.
_SCHEDULERS = (
    "MEGASCALE_COORDINATOR_ADDRESS",
    "TPU_PROCESS_ADDRESSES",
    "TPU_WORKER_HOSTNAMES",
    "SLURM_JOB_ID",
    "OMPI_MCA_orte_hnp_uri",
)
# Device files of TPUs, older and newer.
_TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")
# How often each barrier was passed: the coordinator wants a new name each time.
_passed: dict[str, int] = {}
# Where each process runs.
_hosts: dict[int, str] = {}


def join(seconds: int = START_SECONDS) -> None:
    """Makes this process one of those that a scheduler or the variables tell of.

    To be called before JAX looks for devices; a second call does nothing.

    Raises:
      UserError: the variables contradict each other, or not all processes came in time.
    """
    if jax.distributed.is_initialized() or not _are_several(os.environ):
        return
    address, count, number, local = _told(os.environ) or _found(seconds)
    if count == 1:
        return
    host, port = address.rsplit(":", 1)
    came = roll_call(f"{host}:{int(port) + 1}", count, number, seconds)
    if len(came) < count:
        raise UserError(_absent(came, count, number, address, seconds))
    jax.distributed.initialize(
        address,
        count,
        number,
        local,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        cluster_detection_method="deactivate",
    )
    _hosts.update(came)


def wait(name: str, seconds: int) -> None:
    """Waits until every process has come here.

    Args:
      name: of the place, for the message.
      seconds: the longest to wait.

    Raises:
      UserError: some did not come; says which, and on which hosts they run if they ever said so.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    _passed[name] = _passed.get(name, 0) + 1
    place = f"ivx/barrier/{name}/{_passed[name]}"
    client.key_value_set(f"{place}/{jax.process_index()}", socket.gethostname())
    try:
        client.wait_at_barrier(place, timeout_in_ms=1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(_missing(client, place, name, seconds, _first_line(error))) from error


def _missing(client, place: str, name: str, seconds: int, said: str) -> str:
    """The sentence about those that did not come to a barrier."""
    came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(place)}
    late = [number for number in range(jax.process_count()) if number not in came]
    if not late:
        return f"the barrier {name!r} failed though all processes came to it: {said}"
    named = ", ".join(f"{number} (on {_hosts.get(number, 'a host unknown')})" for number in late)
    return (
        f"waited {seconds} s at {name!r} for {_processes(late)} {named} of {jax.process_count()};"
        " look at what was said there last, and start the run again on all hosts:"
        " it goes on from its newest checkpoint"
    )


def _absent(came: dict[int, str], count: int, number: int, address: str, seconds: int) -> str:
    """The sentence about those that never started."""
    if 0 not in came:
        return (
            f"process {number} of {count} called {address} for {seconds} s, where process 0 should"
            f" be, and was not answered; start process 0, or mend {ADDRESS}; the port after it has"
            " to be open too"
        )
    late = [one for one in range(count) if one not in came]
    there = ", ".join(f"{one} on {came[one]}" for one in sorted(came))
    return (
        f"waited {seconds} s for {_processes(late)} {', '.join(map(str, late))} of {count}, which"
        f" did not start (there are {there}); start all of them, each with the same command"
    )


def _processes(numbers: Sequence[int]) -> str:
    return "process" if len(numbers) == 1 else "processes"


def _are_several(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of a run of many, or of one whose scheduler knows better."""
    if any(name in environment for name in (ADDRESS, COUNT, NUMBER)):
        return True
    if any(name in environment for name in _SCHEDULERS):
        return True
    # A TPU is attached and nobody said so: on Google Cloud, metadata tell of the other hosts.
    return (
        "cpu" not in environment.get("JAX_PLATFORMS", "")
        and importlib.util.find_spec("libtpu") is not None
        and any(any(pathlib.Path("/dev").glob(name)) for name in _TPU_DEVICES)
    )


def _found(seconds: int) -> tuple:
    """What the scheduler says, as `_told`; one process where it says nothing."""
    address, count, number, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, seconds
    )
    if address is None or count is None or number is None:
        return "", 1, 0, None
    return address, count, number, local


def _told(environment: Mapping[str, str]) -> tuple | None:
    """What the variables say: address, count, number, and the local devices: all (None).

    None where they are absent.

    Raises:
      UserError: only some are given, or they are no numbers that fit.
    """
    given = {name: environment[name] for name in (ADDRESS, COUNT, NUMBER) if environment.get(name)}
    if not given:
        return None
    missing = [name for name in (ADDRESS, COUNT, NUMBER) if name not in given]
    if missing:
        raise UserError(
            f"{', '.join(given)} given, {', '.join(missing)} not; give all three on every host, as"
            f" in {ADDRESS}=10.0.0.2:8476 {COUNT}=4 {NUMBER}=0"
        )
    count, number = given[COUNT], given[NUMBER]
    if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
        raise UserError(
            f"{COUNT}={count} and {NUMBER}={number}: expected a positive number of processes, and"
            " for each another number from 0 to one less"
        )
    if ":" not in given[ADDRESS]:
        raise UserError(
            f"{ADDRESS}={given[ADDRESS]} has no port; give host:port of process 0, as 10.0.0.2:8476"
        )
    return given[ADDRESS], int(count), int(number), None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
