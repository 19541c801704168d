"""Excerpts of code in the docs, renewed by `python -m tests.refresh_tour` and held by `test_docs`.

An excerpt is a Python block after a comment that names a file and anchors:

    <!-- from: ivx/training/step.py | def loss_of( | return loss.total -->

Anchors come in pairs: the excerpt holds the lines from the first that contains one to the next that
contains the other. Several pairs are joined by a line "...".
"""

import pathlib
import re
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
GAP = "..."
_BLOCK = re.compile(r"<!-- from: ([^|]+?) \| (.+?) -->\n+```python\n(.*?)```", re.DOTALL)


class Excerpt(NamedTuple):
    """An excerpt as printed on a page.

    Attributes:
      path: of the quoted file, from the root of the repository.
      anchors: pairs of texts, each in a first and a last line.
      code: the printed lines.
    """

    path: str
    anchors: list[str]
    code: str


def excerpts(page: str) -> list[Excerpt]:
    """All excerpts of a page."""
    return [
        Excerpt(path, anchors.split(" | "), code) for path, anchors, code in _BLOCK.findall(page)
    ]


def read(path: str, anchors: list[str]) -> str:
    """The lines of a file that the anchors name.

    Raises:
      ValueError: an anchor is missing, or anchors are not in pairs.
    """
    lines, parts, cursor = (ROOT / path).read_text().splitlines(), [], 0
    for first, last in zip(anchors[::2], anchors[1::2], strict=True):
        start = _find(lines, first, cursor, path)
        cursor = _find(lines, last, start, path) + 1
        parts.append("\n".join(lines[start:cursor]))
    gap = f"\n{' ' * _indent(parts[0])}{GAP}\n"
    return gap.join(parts) + "\n"


class Refreshed(NamedTuple):
    """A page with its excerpts read again, and a sentence for each excerpt that could not be."""

    page: str
    errors: list[str]


def refresh(page: str) -> Refreshed:
    """Reads every excerpt of a page again; one whose anchors are gone stays as it is."""
    errors = []

    def renew(match: re.Match) -> str:
        path, anchors, code = match.groups()
        try:
            renewed = _dedent(path, anchors)
        except ValueError as error:
            errors.append(str(error))
            return match[0]
        return match[0].replace(f"```python\n{code}```", f"```python\n{renewed}```")

    return Refreshed(_BLOCK.sub(renew, page), errors)


def normalised(code: str) -> str:
    """Code with every run of white space as one space."""
    return " ".join(code.split())


def parts(code: str) -> list[str]:
    """The pieces of an excerpt between its gaps, white space normalised."""
    pieces = re.split(r"^\s*\.\.\.\s*$", code, flags=re.MULTILINE)
    return [normalised(piece) for piece in pieces]


def _dedent(path: str, anchors: str) -> str:
    code = read(path, anchors.split(" | "))
    margin = min(_indent(line) for line in code.splitlines() if line.strip())
    return "".join(line[margin:] if line.strip() else line for line in code.splitlines(True))


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))


def _find(lines: list[str], anchor: str, start: int, path: str) -> int:
    for number in range(start, len(lines)):
        if anchor in lines[number]:
            return number
    raise ValueError(f"{path} has no line with {anchor!r} after line {start}; change the anchor")


def main() -> None:
    """Renews the excerpts of all pages; exits with 1 if anchors have to be changed."""
    errors = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.read_text()
        refreshed = refresh(page)
        errors += refreshed.errors
        if refreshed.page != page:
            path.write_text(refreshed.page)
            print(f"renewed {path.relative_to(ROOT)}")
    print("\n".join(errors), file=sys.stderr)
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
