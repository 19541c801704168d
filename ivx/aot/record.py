"""Rows of a report, kept beside its page while it is made: what was cut off goes on from there.

A row counts for as long as nothing has changed that its numbers come from:

    the kernel    sources of the op's folder and of what ops share, but for comments and docstrings
    the compiler  versions of jax, jaxlib and libtpu; of another library whose kernels stand beside
    the method    how the compiler is asked and its schedule read: METHOD, raised by hand

Sources of the method are not compared. They change oftener than its numbers do, and all rows
together take an hour or more to make again. What failed is tried again.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping

from ivx import kernels
from ivx.aot import sources

# To be raised with every change that gives a kept row other numbers, were it made again: in what
# the compiler is asked (kernel.py, child.py, library.py, topology.py), in how its files are read
# (bundles.py, schedule.py, program.py), in a chip's peaks (chips.py), in what `ivx compile kernel`
# writes down. Not when code only moves. A new column counts where it cannot stay empty in old rows.
# tests/test_kernel_method.py holds numbers of a small schedule, in a golden file named by this.
METHOD = 1

# What compiles every row.
COMPILERS = ("jax", "jaxlib", "libtpu")


@dataclasses.dataclass(frozen=True)
class Record:
    """The rows of a file, by case and chip.

    Attributes:
      path: JSON, a row a line; None keeps nothing.
      versions: of packages that are here.
      rows: plain values, with the keys `case`, `chip`, `refusal`, `versions` and `made_from`.
    """

    path: pathlib.Path | None
    versions: Mapping[str, str]
    rows: dict[tuple[str, str], dict] = dataclasses.field(default_factory=dict)

    def read(self) -> None:
        """Takes in what the file holds, if there is one."""
        if self.path is not None and self.path.exists():
            found = json.loads(self.path.read_text())
            self.rows.update({(row["case"], row["chip"]): row for row in found})

    def find(self, module: str, case: str, chip: str) -> dict | None:
        """The row of a case that compiled, if it would be made the same way again."""
        row = self.rows.get((case, chip))
        if not row or row["refusal"] or row["made_from"] != made_from(module):
            return None
        # Other libraries' rows stay where these are not installed: nothing says that they changed.
        compared = {*COMPILERS, *(row["versions"].keys() & self.versions.keys())}
        same = all(row["versions"].get(name) == self.versions.get(name) for name in compared)
        return row if same else None

    def keep(self, module: str, row: dict) -> None:
        """Adds a row, in place of an older one, and writes the file."""
        row["made_from"] = made_from(module)
        self.rows[row["case"], row["chip"]] = row
        if self.path is not None:
            lines = ",\n".join(json.dumps(one) for one in self.rows.values())
            # Whole or not at all, whenever the command is ended.
            beside = self.path.with_suffix(".json.new")
            beside.write_text(f"[\n{lines}\n]\n")
            beside.replace(self.path)


def made_from(module: str) -> str:
    """A digest of the method and of sources: a module of cases, its op, and what ops share."""
    source = pathlib.Path(importlib.util.find_spec(module).origin)
    own = sorted(source.parent.glob("*.py")) if source.name == "cases.py" else [source]
    shared = sorted(pathlib.Path(kernels.__path__[0]).glob("*.py"))
    digest = hashlib.sha256(str(METHOD).encode())
    for path in (*own, *shared):
        digest.update(_program(path.read_text()).encode())
    return digest.hexdigest()[:16]


@functools.cache
def _program(text: str) -> str:
    """A source without its comments, docstrings and layout, as this version of Python writes it."""
    return ast.unparse(sources.without_docstrings(text))
