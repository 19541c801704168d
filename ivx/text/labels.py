"""Short labels that a model wrote on spans of a video, and the search among them."""

import dataclasses
import re
from collections.abc import Sequence

NOTHING = "nothing"


@dataclasses.dataclass(frozen=True)
class Label:
    """What is seen in [start, end) seconds, in a few words."""

    span: tuple[float, float]
    text: str


def search(labels: Sequence[Label], query: str, most: int) -> list[Label]:
    """Labels that share words with `query`, the most words first, then in order of time.

    Args:
      labels: in any order; those that say "nothing" are never found.
      query: words; none finds every label.
      most: labels to return.
    """
    wanted = _words(query)
    told = [label for label in labels if _words(label.text) - {NOTHING}]
    shared = {label: len(wanted & _words(label.text)) for label in told}
    found = [label for label in told if shared[label] or not wanted]
    return sorted(found, key=lambda label: (-shared[label], label.span))[:most]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
