"""Rule-based rewards, one per answer format (`ivx.text.truths`).

    choice   1 for the correct letter, else 0
    span     temporal IoU; 0 without a span or for one that ends before it starts
    words    1 for the expected words, else 0
    call     fraction of correct arguments of a tool call; 0 for another tool, and for an answer
             with no call or several

Thoughts are ignored; an answer whose thought was truncated is empty. Every reward is finite and in
[0, 1]. The InternVideo3 README names the first two; the others and the edge cases are ours.
"""

import json
from collections.abc import Callable

from ivx.judging import answers, metrics
from ivx.text import tool_calls, truths

Reward = Callable[[str, dict], float]


def choice(text: str, truth: dict) -> float:
    """1 for the letter `truth["answer"]` among `truth["options"]`."""
    return float(answers.letter(text, len(truth["options"])) == truth["answer"])


def span(text: str, truth: dict) -> float:
    """IoU with `truth["span"]`, (start, end) in seconds."""
    return metrics.temporal_iou(answers.span(text), tuple(truth["span"]))


def words(text: str, truth: dict) -> float:
    """1 for the words of `truth["answer"]`."""
    return float(answers.words(text) == answers.words(truth["answer"]))


def call(text: str, truth: dict) -> float:
    """Fraction of correct arguments; `truth["answer"]` is the expected call as JSON."""
    return metrics.call_share(answers.call(text), tool_calls.Call(**json.loads(truth["answer"])))


def reward_of(truth: dict) -> Reward:
    """The reward for questions with this truth."""
    if truth["format"] == truths.CHOICE:
        return choice
    if truth["format"] == truths.CALL:
        return call
    return span if "span" in truth else words
