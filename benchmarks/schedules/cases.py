"""Finds the kernel cases of every op, in the command and in its compiling processes."""

import importlib
import importlib.util
import pathlib

from ivx import kernels
from ivx.kernels.case import KernelCase


def ops() -> list[str]:
    """Ops with cases to compile: folders of ivx/kernels that hold a cases.py."""
    folder = pathlib.Path(kernels.__path__[0])
    return sorted(path.parent.name for path in folder.glob("*/cases.py"))


def of(module: str, chip: str) -> list[KernelCase]:
    """Cases that a module with `cases(chip)` defines for this chip."""
    cases = importlib.import_module(module).cases(chip)
    return [case for case in cases if chip in case.chips]


def module_of(op: str) -> str:
    """The module that defines the cases of an op."""
    return f"ivx.kernels.{op}.cases"
