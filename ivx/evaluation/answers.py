"""Reading answers: what a model wrote, as a letter, a span in seconds, a call, or plain words."""

import re

from ivx.text import thinking, tool_calls

_TIME = r"(\d+(?::\d{1,2}){1,2}(?:\.\d+)?|\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?"
_SPAN = re.compile(rf"{_TIME}\s*(?:to|-|–|and|,)\s*{_TIME}", re.IGNORECASE)


def final(text: str) -> str:
    """The answer behind the thought; none behind one that was cut off."""
    return thinking.apart(text)[1]


def words(text: str) -> str:
    """Lower-case words without a full stop, for comparison by equality."""
    return " ".join(final(text).lower().rstrip(".").split())


def letter(text: str, options: int) -> str | None:
    """The letter chosen, of the `options` that were offered; None if there is none.

    Looks for a letter in brackets, after "answer is", at the start before a mark, then for the last
    that stands alone; "A" may be an article.
    """
    text = final(text)
    offered = f"([{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[:options]}])"
    for pattern in (
        rf"\({offered}\)",
        rf"[Aa]nswer(?: is|:)\s*{offered}\b",
        rf"^{offered}(?=[.:)]|$)",
        rf"(?<![A-Za-z0-9]){offered}(?![A-Za-z0-9])",
    ):
        found = re.findall(pattern, text)
        if found:
            return found[-1]
    return None


def span(text: str) -> tuple[float, float] | None:
    """The last span in the text, in seconds; None if there is none or it ends before it starts.

    Understands 3.0 to 5.5, 3-5 seconds, 01:10 - 01:20 and 1:02:03 to 1:02:09.
    """
    found = _SPAN.findall(final(text))
    if not found:
        return None
    start, end = (_seconds(time) for time in found[-1])
    return (start, end) if start <= end else None


def call(text: str) -> tool_calls.Call | None:
    """The tool call of the text; None if it holds none, several, or one that cannot be read."""
    said = tool_calls.parse(text)
    return said.calls[0] if len(said.calls) == 1 and not said.error else None


def _seconds(time: str) -> float:
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total
