"""Thoughts in a conversation, as the models of Qwen are asked for them and shown their own."""

from collections.abc import Sequence

THINK, THINK_END = "<think>", "</think>"
# What an open turn begins with, by `enable_thinking`.
OPENINGS = {None: "", True: f"{THINK}\n", False: f"{THINK}\n\n{THINK_END}\n\n"}


def last_question(roles: Sequence[str]) -> int:
    """Number of the user's last message, by the roles of all; without any, of the last message."""
    asked = [number for number, role in enumerate(roles) if role == "user"]
    return asked[-1] if asked else len(roles) - 1


def split(text: str) -> tuple[str, str]:
    """(thought, said): a thought between its tags, the breaks around it as Qwen3 writes them.

    The prompt may have opened the thought. Without one, the thought is empty.
    """
    if THINK_END not in text:
        return "", text
    thought = text.split(THINK_END, 1)[0].rsplit(THINK, 1)[-1].strip("\n")
    said = text.rsplit(THINK_END, 1)[1].lstrip("\n")
    return (f"{THINK}\n{thought}\n{THINK_END}\n\n" if thought else ""), said


def whole_turn(written: str, enable_thinking: bool | None) -> str:
    """A turn from its beginning, with the thought that the prompt opened even if it never ends."""
    return OPENINGS[True] + written if enable_thinking else written


def apart(turn: str) -> tuple[str, str]:
    """(thought, answer) without tags and spaces around; behind a thought without end is no answer.

    Several thoughts are one, with what is said between them.
    """
    before, _, answer = turn.rpartition(THINK_END)
    answer, _, unended = answer.partition(THINK)
    thought = f"{before}{unended}".replace(THINK_END, "").replace(THINK, "")
    return thought.strip(), answer.strip()
