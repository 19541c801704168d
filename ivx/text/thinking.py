"""Thoughts in a conversation, in the format of Qwen3."""

from collections.abc import Sequence

THINK, THINK_END = "<think>", "</think>"
# The start of an open turn, by `enable_thinking`.
OPENINGS = {None: "", True: f"{THINK}\n", False: f"{THINK}\n\n{THINK_END}\n\n"}


def last_question(roles: Sequence[str | None]) -> int:
    """Index of the last user message; of the last message if there is none."""
    questions = [index for index, role in enumerate(roles) if role == "user"]
    return questions[-1] if questions else len(roles) - 1


def split(text: str) -> tuple[str, str]:
    """(thought, reply): the thought with its tags and the line breaks of Qwen3.

    The prompt may have opened the thought. It is empty if the text contains none.
    """
    if THINK_END not in text:
        return "", text
    thought = text.split(THINK_END, 1)[0].rsplit(THINK, 1)[-1].strip("\n")
    reply = text.rsplit(THINK_END, 1)[1].lstrip("\n")
    return (f"{THINK}\n{thought}\n{THINK_END}\n\n" if thought else ""), reply


def whole_turn(written: str, enable_thinking: bool | None) -> str:
    """The complete turn, with the thought that the prompt opened even if it never ends."""
    return OPENINGS[True] + written if enable_thinking else written


def separate(turn: str) -> tuple[str, str]:
    """(thought, answer), without tags and outer whitespace.

    An unfinished thought has no answer. Several thoughts, and the text between them, become one.
    """
    before, _, answer = turn.rpartition(THINK_END)
    answer, _, unfinished = answer.partition(THINK)
    thought = f"{before}{unfinished}".replace(THINK_END, "").replace(THINK, "")
    return thought.strip(), answer.strip()
