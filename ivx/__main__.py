"""The `ivx` command; `ivx/commands` has a module for each sub-command."""

import importlib.metadata
import sys

import ivx
from ivx import cli
from ivx.commands import table


def main(argv: list[str] | None = None) -> None:
    """Runs `ivx <command> ...` and exits; the exit codes are those of `ivx.cli.main`."""
    argv = list(sys.argv if argv is None else argv)
    if argv[1:2] in (["--version"], ["-version"], ["version"]):
        print(f"ivx {_version()}")
        return
    cli.main("ivx", "ivx: InternVideo3 for JAX and TPU", table.MODULES, argv)


def _version() -> str:
    try:
        return importlib.metadata.version("ivx")
    except importlib.metadata.PackageNotFoundError:
        return ivx.__version__


if __name__ == "__main__":
    main()
