"""Tells whether a stored result of the TPU compiler is of the program that the code lowers to now.

A result belongs to the digest of its lowered program (`ivx.aot.lowered`) and to the versions of the
packages that compiled it. Source files are not compared: renaming or moving code changes no digest.
"""

from collections.abc import Mapping

# Packages that lower and compile every program.
COMPILERS = ("jax", "jaxlib", "libtpu")


def versions(*others: str) -> dict[str, str]:
    """Versions of the compiling packages and of `others`, as far as they are installed."""
    from ivx.aot import library

    return library.versions(*COMPILERS, *others)


def difference(row: Mapping, lowered: str, current: Mapping[str, str]) -> str:
    """Why a row is outdated; empty if it is current.

    Args:
      row: a stored result with the keys `lowered` and `versions`.
      lowered: digest of the program as the code lowers it now; empty if it does not lower.
      current: of `versions`. Of packages that are not COMPILERS, only those are compared that both
        have.
    """
    if row.get("lowered", "") != lowered:
        return "of an earlier program"
    stored = row["versions"]
    compared = {*COMPILERS, *(stored.keys() & current.keys())}
    if any(stored.get(package) != current.get(package) for package in compared):
        return "of other versions"
    return ""
