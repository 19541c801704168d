"""Short labels of video spans, written by a model, and a search over them."""

import dataclasses
import re
from collections.abc import Sequence

NOTHING = "nothing"


@dataclasses.dataclass(frozen=True)
class Label:
    """A few words about what is visible in [start, end) seconds."""

    span: tuple[float, float]
    text: str


def search(labels: Sequence[Label], query: str, most: int) -> list[Label]:
    """Labels that share words with `query`, by number of shared words, then by time.

    Args:
      labels: in any order; labels that say "nothing" never match.
      query: words; an empty query matches every label.
      most: maximum number of labels to return.
    """
    words = _words(query)
    candidates = [label for label in labels if _words(label.text) - {NOTHING}]
    shared = {label: len(words & _words(label.text)) for label in candidates}
    matches = [label for label in candidates if shared[label] or not words]
    return sorted(matches, key=lambda label: (-shared[label], label.span))[:most]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
