"""Rewards by rule: a choice is right or wrong, a span is worth its overlap with the true one.

    choice   1 if the letter is the right one of those offered, else 0
    span     temporal IoU; 0 for an answer that is no span or ends before it starts
    words    1 if the words are those expected, else 0
    call     share of the arguments of a tool call that are right; 0 for another tool, or for a turn
             that holds no call or several

Thoughts are not looked at, and one that was cut off has no answer. Every reward is finite and lies
in [0, 1] (InternVideo3 README names the first two; the others and the edge cases are ours).
"""

import json
from collections.abc import Callable

from ivx.evaluation import answers, metrics
from ivx.text import tool_calls

Reward = Callable[[str, dict], float]


def choice(text: str, truth: dict) -> float:
    """1 for the letter `truth["answer"]` out of `truth["options"]`."""
    return float(answers.letter(text, len(truth["options"])) == truth["answer"])


def span(text: str, truth: dict) -> float:
    """IoU with `truth["span"]`, (start, end) in seconds."""
    return metrics.temporal_iou(answers.span(text), tuple(truth["span"]))


def words(text: str, truth: dict) -> float:
    """1 for the words of `truth["answer"]`."""
    return float(answers.words(text) == answers.words(truth["answer"]))


def call(text: str, truth: dict) -> float:
    """Share of right arguments of a call; `truth["answer"]` is the true one as JSON."""
    return metrics.call_share(answers.call(text), tool_calls.Call(**json.loads(truth["answer"])))


def reward_of(truth: dict) -> Reward:
    """The rule that judges answers to a question with this truth."""
    if truth["format"] == "choice":
        return choice
    if truth["format"] == "call":
        return call
    return span if "span" in truth else words
