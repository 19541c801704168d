"""Starts real processes on this machine, told of each other by variables."""

import os
import pathlib
import socket
import subprocess
import sys

from ivx.parallel import hosts

ROOT = pathlib.Path(__file__).parents[2]


def launch(
    module: str, arguments: list[str], count: int, devices: int = 8
) -> list[subprocess.Popen]:
    """`count` processes of a module of tests, which share the devices."""
    port = free_ports()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ
            | {
                hosts.ADDRESS: f"127.0.0.1:{port}",
                hosts.COUNT: str(count),
                hosts.NUMBER: str(number),
                "JAX_PLATFORMS": "cpu",
                # Process 0 alone would find its program in the cache, as an earlier run compiled
                # it, and may come to exchanges in another order than those that compile it now.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // count}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def free_ports() -> int:
    """A port that is free, and the next one too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except (OSError, OverflowError):
                continue
