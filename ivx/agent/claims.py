"""Times that an answer names, held against the evidence that it cites."""

import re
from collections.abc import Sequence

from data_pipelines.views import Span
from ivx.evaluation import answers

# 3.0 to 5.5, 3-5, 01:10 - 01:20; times in any order, since wrong ones are to be noticed.
_SPAN = re.compile(r"\d[\d.:]*\s*(?:to|-|–)\s*\d")


def supported(answer: str, evidence: Sequence[Span]) -> bool:
    """Whether a span of time that the answer names has a moment in common with its evidence.

    An answer that names none, or cites nothing, claims nothing that could be wrong.

    Args:
      answer: in words.
      evidence: seconds of the video, of what the answer cites.
    """
    if not evidence or not _SPAN.search(answer):
        return True
    claim = answers.span(answer)
    return claim is not None and any(claim[0] < end and start < claim[1] for start, end in evidence)
