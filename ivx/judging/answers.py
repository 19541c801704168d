"""Parses a model's answer: a letter, a span in seconds, a tool call, or words."""

import re

from ivx.text import thinking, tool_calls, truths

_TIME = r"(\d+(?::\d{1,2}){1,2}(?:\.\d+)?|\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?"
_SPAN = re.compile(rf"{_TIME}\s*(?:to|-|–|and|,)\s*{_TIME}", re.IGNORECASE)


def final(text: str) -> str:
    """The answer after the thought; empty if the thought was truncated."""
    return thinking.separate(text)[1]


def words(text: str) -> str:
    """The answer in lower case without a final full stop, for exact matching."""
    return truths.words(text)


def letter(text: str, options: int) -> str | None:
    """The chosen letter, among the first `options` letters; None if there is none.

    Looks for a letter in parentheses, after "answer is", then at the start before punctuation, and
    last for any standalone letter; the last match counts, since "A" may be an article.
    """
    text = final(text)
    allowed = f"([{truths.LETTERS[:options]}])"
    for pattern in (
        rf"\({allowed}\)",
        rf"[Aa]nswer(?: is|:)\s*{allowed}\b",
        rf"^{allowed}(?=[.:)]|$)",
        rf"(?<![A-Za-z0-9]){allowed}(?![A-Za-z0-9])",
    ):
        letters = re.findall(pattern, text)
        if letters:
            return letters[-1]
    return None


def span(text: str) -> tuple[float, float] | None:
    """The last span of the answer in seconds; None if missing or if it ends before it starts.

    Parses 3.0 to 5.5, 3-5 seconds, 01:10 - 01:20 and 1:02:03 to 1:02:09.
    """
    spans = _SPAN.findall(final(text))
    if not spans:
        return None
    start, end = (_seconds(time) for time in spans[-1])
    return (start, end) if start <= end else None


def call(text: str) -> tool_calls.Call | None:
    """The only tool call of the answer; None if there is none, several, or a malformed one."""
    parsed = tool_calls.parse(text)
    return parsed.calls[0] if len(parsed.calls) == 1 and not parsed.error else None


def _seconds(time: str) -> float:
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total
