"""Rows of a report, kept beside its page while it is made: what was cut off goes on from there.

A row counts for as long as nothing has changed that it was made from: the sources of its op, what
reads a schedule, and the compiler. What failed is tried again.
"""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping

from ivx import kernels
from ivx.aot import bundles, chips, program, schedule

# Beside an op's own sources: what ops share, and what makes a row of a dump.
_SHARED = (
    *sorted(pathlib.Path(kernels.__path__[0]).glob("*.py")),
    *(pathlib.Path(one.__file__) for one in (bundles, chips, program, schedule)),
)


@dataclasses.dataclass(frozen=True)
class Record:
    """The rows of a file, by case and chip.

    Attributes:
      path: JSON, a row a line; None keeps nothing.
      versions: of the packages that compile.
      rows: plain values, with the keys `case`, `chip`, `refusal` and `made_from`.
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
        good = row and not row["refusal"] and row["made_from"] == self.made_from(module)
        return row if good else None

    def keep(self, module: str, row: dict) -> None:
        """Adds a row, in place of an older one, and writes the file."""
        row["made_from"] = self.made_from(module)
        self.rows[row["case"], row["chip"]] = row
        if self.path is not None:
            lines = ",\n".join(json.dumps(one) for one in self.rows.values())
            # Whole or not at all, whenever the command is ended.
            beside = self.path.with_suffix(".json.new")
            beside.write_text(f"[\n{lines}\n]\n")
            beside.replace(self.path)

    def made_from(self, module: str) -> str:
        """A digest of the sources of a module of cases, of its op's folder, and of versions."""
        source = pathlib.Path(importlib.util.find_spec(module).origin)
        own = sorted(source.parent.glob("*.py")) if source.name == "cases.py" else [source]
        digest = hashlib.sha256(json.dumps(dict(self.versions), sort_keys=True).encode())
        for path in (*own, *_SHARED):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]
