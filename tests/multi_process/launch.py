"""Starts processes on this machine that find each other by environment variables."""

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
    """Starts `count` processes of a test module with `devices` devices in total."""
    port = free_ports()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ
            | {
                hosts.ADDRESS: f"127.0.0.1:{port}",
                hosts.COUNT: str(count),
                hosts.NUMBER: str(process),
                "JAX_PLATFORMS": "cpu",
                # Only process 0 would read its program from the cache, with collectives possibly in
                # a different order than in the programs that the others compile.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // count}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


def free_ports() -> int:
    """A free port whose successor is free, too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except (OSError, OverflowError):
                continue
