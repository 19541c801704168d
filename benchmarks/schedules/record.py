"""Stored rows of the kernel report, so that an interrupted report continues.

A row is current while all of these are unchanged:

    the program   digest of the lowered case, and versions of the packages that compile it
    the method    how the compiler is asked and its schedule read: METHOD, raised by hand

A refused row is tried again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping

from benchmarks import provenance

# Raise it with every change that would give a stored row other numbers: in how the compiler is
# called (compiled_case.py, child.py, library.py, topology.py), in how its files are read
# (bundles.py, schedule.py, program.py), in the peaks of a chip (chips.py), or in the contents of a
# row. Do not raise it when code only moves, nor for a new column that may stay empty in old rows.
# The golden file of tests/test_kernel_method.py carries this number and holds the numbers of a
# small schedule.
METHOD = 1


@dataclasses.dataclass(frozen=True)
class Record:
    """The rows of a file, by case and chip.

    Attributes:
      path: JSON, a row a line; None stores nothing.
      versions: of the installed packages.
      rows: plain values, with the keys `case`, `chip`, `refusal`, `versions`, `lowered` and
        `method`; `outdated` says why a row is not current.
    """

    path: pathlib.Path | None
    versions: Mapping[str, str]
    rows: dict[tuple[str, str], dict] = dataclasses.field(default_factory=dict)

    def read(self) -> None:
        """Loads the file if it exists."""
        if self.path is not None and self.path.exists():
            stored = json.loads(self.path.read_text())
            self.rows.update({(row["case"], row["chip"]): row for row in stored})

    def compare(
        self, cells: Iterable[tuple[str, str]], digests: Mapping[tuple[str, str], str]
    ) -> None:
        """Marks rows that are outdated, and removes the mark from rows that are current again.

        Args:
          cells: case and chip of the rows to compare.
          digests: of those that lower. A row of a library that is not installed stays as it is.
        """
        for key in cells:
            row = self.rows.get(key)
            if row is None or row["refusal"]:
                continue
            missing = row["versions"].keys() - self.versions.keys() - set(provenance.COMPILERS)
            if missing and key not in digests:
                continue
            reason = self._reason(row, digests.get(key, ""))
            row.pop("outdated", None)
            if reason:
                row["outdated"] = reason
        self._write()

    def current(self, case: str, chip: str) -> dict | None:
        """The row of a case that compiled, if it is current."""
        row = self.rows.get((case, chip))
        return None if not row or row["refusal"] or row.get("outdated") else row

    def add(self, row: dict) -> None:
        """Stores a row in place of an older one."""
        row["method"] = METHOD
        self.rows[row["case"], row["chip"]] = row
        self._write()

    def _reason(self, row: Mapping, lowered: str) -> str:
        if row["method"] != METHOD:
            return "of another method"
        return provenance.difference(row, lowered, self.versions)

    def _write(self) -> None:
        if self.path is None:
            return
        lines = ",\n".join(json.dumps(row) for row in self.rows.values())
        # Atomic, so that an interrupted command leaves the file intact.
        temporary = self.path.with_suffix(".json.new")
        temporary.write_text(f"[\n{lines}\n]\n")
        temporary.replace(self.path)
