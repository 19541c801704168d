"""`ivx` as a user starts it, without the seconds in which Python imports libraries.

Processes are forked from a server that has imported the libraries and nothing of this project. The
imports of ivx, flags, devices, output and exit code are those of `python -m ivx`. The differences
are `atexit` handlers, variables that JAX reads at import, and a library that a command forgets to
import. `fresh` is the plain way.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
LIBRARIES = [
    "jax",
    "optax",
    "flax.nnx",
    "orbax.checkpoint",
    "grain",
    "tensorboardX",
    "ml_collections.config_flags",
    "tokenizers",
    "av",
    "PIL.Image",
    "jinja2",
]


def processes() -> multiprocessing.context.ForkServerContext:
    """A context whose processes are forked from one server that has imported `LIBRARIES`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


class Command:
    """A running command, with the few attributes of a process that tests use.

    Args:
      arguments: all arguments after `ivx`.
    """

    def __init__(self, *arguments: str):
        self._arguments = arguments
        self._folder = tempfile.TemporaryDirectory(prefix="ivx-command-")
        self._process = processes().Process(
            target=_run, args=(arguments, _environment(), self._folder.name)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def join(self) -> None:
        self._process.join()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()
        self.join()

    def finish(self, seconds: float = 300) -> subprocess.CompletedProcess:
        """Waits for the end, and returns exit code and output.

        Raises:
          subprocess.TimeoutExpired: it took longer and was killed.
        """
        self._process.join(seconds)
        late = self.exitcode is None
        if late:
            self.kill()
        files = [pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")]
        out, err = (path.read_text() if path.exists() else "" for path in files)
        if late:
            raise subprocess.TimeoutExpired(["ivx", *self._arguments], seconds, out, err)
        return subprocess.CompletedProcess(self._arguments, self._process.exitcode, out, err)


def ivx(*arguments: str) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    return Command(*arguments).finish()


def fresh(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    """Runs `python -m ivx`, which imports its libraries itself."""
    return subprocess.run(
        [sys.executable, "-m", "ivx", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=_environment(),
    )


def refused(result: subprocess.CompletedProcess) -> str:
    """The one sentence of a command that rejected its input."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("ivx: ")]
    assert len(sentences) == 1, result.stderr
    return sentences[0]


def _environment() -> dict[str, str]:
    """The environment of a user's shell, without the XLA_FLAGS of the tests."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return environment | {"PYTHONPATH": str(ROOT)}


def _run(arguments: tuple[str, ...], environment: dict[str, str], folder: str) -> None:
    """The function of the new process."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["ivx", *arguments]
    runpy.run_module("ivx", run_name="__main__", alter_sys=True)
