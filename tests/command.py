"""`ivx` as a user starts it, without the seconds in which Python imports libraries.

Processes are forked off a server that has imported the libraries and nothing of this project: what
a command imports of ours, its flags, devices, output and exit code are those of `python -m ivx`.
Not the same: what runs `atexit`, variables that JAX reads as it is imported, and a library that a
command forgets to import. `anew` is the plain way.
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
    """Whose processes are forked off the one server there is, which has imported `LIBRARIES`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


class Command:
    """A command that runs, with the few attributes of a process that are used.

    Args:
      arguments: all after `ivx`.
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
        """Ends it by SIGKILL."""
        self._process.kill()
        self.join()

    def finish(self, seconds: float = 300) -> subprocess.CompletedProcess:
        """Waits for its end, and returns what it has written.

        Raises:
          subprocess.TimeoutExpired: it took longer; it was killed.
        """
        self._process.join(seconds)
        late = self.exitcode is None
        if late:
            self.kill()
        written = [pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")]
        out, err = (path.read_text() if path.exists() else "" for path in written)
        if late:
            raise subprocess.TimeoutExpired(["ivx", *self._arguments], seconds, out, err)
        return subprocess.CompletedProcess(self._arguments, self._process.exitcode, out, err)


def ivx(*arguments: str) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    return Command(*arguments).finish()


def anew(*arguments: str) -> subprocess.CompletedProcess:
    """The same by `python -m ivx`, libraries and all."""
    return subprocess.run(
        [sys.executable, "-m", "ivx", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=_environment(),
    )


def refused(result: subprocess.CompletedProcess) -> str:
    """The one sentence of a command that was refused."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("ivx: ")]
    assert len(sentences) == 1, result.stderr
    return sentences[0]


def _environment() -> dict[str, str]:
    """Of a user's shell: XLA_FLAGS split the host for the tests themselves."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def _run(arguments: tuple[str, ...], environment: dict[str, str], folder: str) -> None:
    """In the new process."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["ivx", *arguments]
    runpy.run_module("ivx", run_name="__main__", alter_sys=True)
