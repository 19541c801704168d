"""Every kernel case of every op, and how one is found again in the compiling process."""

import importlib
import importlib.util
import pathlib

from ivx import kernels
from ivx.kernels.case import KernelCase


def ops() -> list[str]:
    """Ops that say what is to be compiled: folders of ivx/kernels with a file cases.py."""
    folder = pathlib.Path(kernels.__path__[0])
    return sorted(path.parent.name for path in folder.glob("*/cases.py"))


def of(module: str, chip: str) -> list[KernelCase]:
    """Cases of a module with `cases(chip)` that are compiled for this chip."""
    found = importlib.import_module(module).cases(chip)
    return [case for case in found if chip in case.chips]


def module_of(op: str) -> str:
    """Where the cases of an op are."""
    return f"ivx.kernels.{op}.cases"
