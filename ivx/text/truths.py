"""Truths: what an answer to a question is scored against. This is the table of their formats.

    format  keys beside family, format and answer
    choice  options: the options without letters; the answer is a letter
    open    values: all possible answers, or none; span, spans: true [start, end] in seconds
    call    none; the answer is a tool call as JSON text

`ivx.judging` scores by these formats. A new format is added here first.
"""

import json
from collections.abc import Sequence
from typing import Any

from ivx.text import thinking, tool_calls

CHOICE, OPEN, CALL = "choice", "open", "call"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_COMMON = ("family", "format", "answer")
_OTHER_KEYS = {CHOICE: ("options",), OPEN: ("values", "span", "spans"), CALL: ()}


class TruthError(ValueError):
    """A truth that no answer can be scored against."""


def check(truth: Any) -> dict:
    """Checks a truth. Spans are checked by their reader, which knows the length of the video.

    Returns:
      The truth. The answer of a choice is a capital letter, even if the truth gives a small letter
      or the words of an option.

    Raises:
      TruthError: a key is missing, unknown or of the wrong type, or the answer is not offered.
    """
    if not isinstance(truth, dict):
        raise TruthError(f"a truth must be an object, not {str(truth)[:80]!r}")
    missing = [key for key in _COMMON if key not in truth]
    if missing:
        raise TruthError(f"a truth lacks {', '.join(missing)}; it needs {', '.join(_COMMON)}")
    for key in _COMMON:
        if not isinstance(truth[key], str) or not truth[key].strip():
            raise TruthError(f"the {key} {str(truth[key])[:80]!r} of a truth must be text")
    kind = truth["format"]
    if kind not in _OTHER_KEYS:
        raise TruthError(f"a truth has the format {kind!r}; there are {', '.join(_OTHER_KEYS)}")
    allowed = (*_COMMON, *_OTHER_KEYS[kind])
    unknown = sorted(set(truth) - set(allowed))
    if unknown:
        raise TruthError(
            f"a truth of the format {kind} has the keys {', '.join(unknown)}; allowed are"
            f" {', '.join(allowed)}"
        )
    if kind == CHOICE:
        options = _texts(truth, "options")
        if not options:
            raise TruthError("a truth of the format choice needs options, a list of texts")
        return truth | {"answer": letter(truth["answer"], options)}
    if kind == CALL:
        _check_call(truth["answer"])
        return truth
    if not words(truth["answer"]):
        raise TruthError(f"the answer {truth['answer'][:80]!r} of a truth has no words")
    values = _texts(truth, "values")
    if values and words(truth["answer"]) not in map(words, values):
        raise TruthError(
            f"the answer {truth['answer'][:80]!r} of a truth is none of its {len(values)} values;"
            " add it, or leave values empty for free text"
        )
    return truth


def letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the right option, from a letter of either case or the words of one option.

    Raises:
      TruthError: the answer is neither, or it could be several options.
    """
    offered = LETTERS[: len(options)]
    if not 0 < len(options) <= len(LETTERS):
        raise TruthError(f"{len(options)} options; 1 to {len(LETTERS)} can have letters")
    answer = answer.strip()
    if len(answer) == 1 and answer in offered:
        return answer
    matching = {
        mark
        for mark, option in zip(offered, options, strict=True)
        if words(option) == words(answer) or mark == answer.upper()
    }
    if len(matching) == 1:
        return matching.pop()
    which = f"could be {' or '.join(sorted(matching))}" if matching else "is none"
    raise TruthError(
        f"the answer {answer[:80]!r} {which} of {len(options)} options; give the letter of one,"
        f" {offered[0]} to {offered[-1]}"
    )


def words(text: str) -> str:
    """The words that are compared: without a thought, capitals and a final full stop."""
    return " ".join(thinking.separate(text)[1].lower().rstrip(".").split())


def _texts(truth: dict, key: str) -> list[str]:
    texts = truth.get(key)
    texts = [] if texts is None else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TruthError(f"the {key} {str(texts)[:80]!r} of a truth must be a list of texts")
    return texts


def _check_call(answer: str) -> None:
    try:
        tool_calls.check_calls([json.loads(answer)])
    except (ValueError, RecursionError) as error:
        raise TruthError(f"the answer of a truth must be a tool call as JSON ({error})") from error
