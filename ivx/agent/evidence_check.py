"""Checks the times in an answer against the evidence that it cites."""

import re
from collections.abc import Sequence

from data_pipelines.views import Span
from ivx.judging import answers

# "3.0 to 5.5 seconds", "between 3 and 5 s"; in any order, so that wrong spans are found too. The
# unit is required, because scores, dates and counts look the same without it.
_SPAN = re.compile(r"\d[\d.:]*\s*(?:s|seconds?)?\s*(?:to|-|–|and)\s*\d.*(?:\bseconds?|\ds|\ss)\b")


def supported(answer: str, evidence: Sequence[Span]) -> bool:
    """Whether the time span in the answer overlaps its evidence.

    An answer without a span in seconds, or without evidence, counts as supported.

    Args:
      answer: the answer's text.
      evidence: spans of the cited evidence, in seconds of the video.
    """
    if not evidence or not _SPAN.search(answer):
        return True
    claim = answers.span(answer)
    return claim is not None and any(claim[0] < end and start < claim[1] for start, end in evidence)
