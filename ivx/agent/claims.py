"""Times that an answer names, held against the evidence that it cites."""

import re
from collections.abc import Sequence

from data_pipelines.views import Span
from ivx.evaluation import answers

# 3.0 to 5.5 seconds, between 3 and 5 s; in any order, since wrong times are to be noticed. Without
# the unit a score, a date or a count looks the same.
_SPAN = re.compile(r"\d[\d.:]*\s*(?:s|seconds?)?\s*(?:to|-|–|and)\s*\d.*(?:\bseconds?|\ds|\ss)\b")


def supported(answer: str, evidence: Sequence[Span]) -> bool:
    """Whether a span of time that the answer names has a moment in common with its evidence.

    An answer that names no span in seconds, or cites nothing, claims nothing that could be wrong.

    Args:
      answer: in words.
      evidence: seconds of the video, of what the answer cites.
    """
    if not evidence or not _SPAN.search(answer):
        return True
    claim = answers.span(answer)
    return claim is not None and any(claim[0] < end and start < claim[1] for start, end in evidence)
