"""Questions as they are asked: openly or as multiple choice, with or without a thought before.

open     What colour is the shape?                        red
choice   What colour is the shape?
         blue(A)
         red(B) ...
         Answer with one of these.                        red(B)
thought  What colour is the shape? Think first.           <think>A red circle is seen.</think>red
"""

import dataclasses

import numpy as np

from data_pipelines.synthetic.families import Question

LETTERS = "ABCD"
THINK_FIRST = " Think first."


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question as asked and the answer expected; `truth` is what an evaluation needs to know."""

    text: str
    answer: str
    truth: dict


def openly(question: Question) -> Turn:
    """The question as it is."""
    truth = {
        "family": question.family,
        "format": "open",
        "answer": question.answer,
        "values": list(question.values),
    }
    if question.span:
        truth["span"] = list(question.span)
    return Turn(question.text, question.answer, truth)


def as_choice(question: Question, rng: np.random.Generator) -> Turn:
    """Up to four options with the right one at a uniformly drawn place.

    The answer names the option before its letter: a model that sees what is right then has only to
    copy the letter that follows it in the list, which it learns in minutes; to bind a bare letter
    takes many times as long.
    """
    others = [value for value in question.values if value != question.answer]
    options = [str(other) for other in rng.permutation(others)[: len(LETTERS) - 1]]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, question.answer)
    listed = "\n".join(
        f"{option}({letter})" for letter, option in zip(LETTERS, options, strict=False)
    )
    text = f"{question.text}\n{listed}\nAnswer with one of these."
    truth = {
        "family": question.family,
        "format": "choice",
        "answer": LETTERS[place],
        "options": options,
    }
    return Turn(text, f"{question.answer}({LETTERS[place]})", truth)


def thinking(turn: Turn, question: Question) -> Turn:
    """The turn with its question asking for a thought, and the thought before its answer."""
    return Turn(
        turn.text + THINK_FIRST, f"<think>{question.thought}</think>{turn.answer}", turn.truth
    )


def sample(sample_id: str, video: dict, turns: list[Turn]) -> dict:
    """A conversation about one video as a line of an annotation."""
    messages = []
    for i, turn in enumerate(turns):
        content = (
            turn.text if i else [video, {"type": "text", "text": f"<VIDEO_CONTEXT>{turn.text}"}]
        )
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": turn.answer},
        ]
    return {"id": sample_id, "messages": messages, "truths": [turn.truth for turn in turns]}
