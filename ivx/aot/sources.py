"""A digest of what Python sources do: without their comments, docstrings and layout.

What takes a quarter of an hour to compile is not to look outdated for the sake of a comment.
"""

import ast
import hashlib
import pathlib
from collections.abc import Collection, Iterable

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def digest(
    paths: Iterable[pathlib.Path], root: pathlib.Path, but: Collection[pathlib.Path] = ()
) -> str:
    """Of files and of all files in folders; their order does not matter, their places do.

    Args:
      paths: Python files, and folders that hold some.
      root: that places are told from.
      but: files that do not count.
    """
    found = {
        path
        for one in paths
        for path in (one.rglob("*.py") if one.is_dir() else [one])
        # What kernels are looked at with is not what they are.
        if path.name != "cases.py" and path not in but
    }
    result = hashlib.sha256()
    for path in sorted(found):
        result.update(f"{path.relative_to(root)}\n{meaning(path.read_text())}\n".encode())
    return result.hexdigest()[:16]


def meaning(text: str) -> str:
    """The syntax of a source, without docstrings."""
    return ast.dump(without_docstrings(text))


def without_docstrings(text: str) -> ast.Module:
    """The syntax tree of a source, in which comments never are."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
