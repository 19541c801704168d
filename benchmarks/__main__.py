"""`python -m benchmarks NAME` makes the pages in docs/results. It is not part of the package."""

import sys

from ivx import cli

MODULES = {
    "model": "benchmarks.model",
    "train": "benchmarks.train.compare",
    "kernels": "benchmarks.kernels",
    "decode": "benchmarks.decode.compare",
    "packing": "benchmarks.packing",
    "loading": "benchmarks.loading",
    "conversion": "benchmarks.conversion.measure",
    "schedules": "benchmarks.schedules.compile_kernels",
    "pods": "benchmarks.pods.compile_pods",
    "support": "benchmarks.support.matrix",
    "real_size": "benchmarks.real_size.measure",
}


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m benchmarks NAME ...` and exits, with the exit codes of `ivx.cli.main`."""
    argv = list(sys.argv if argv is None else argv)
    cli.main("python -m benchmarks", "Benchmarks of ivx, one page each.", MODULES, argv)


if __name__ == "__main__":
    main()
