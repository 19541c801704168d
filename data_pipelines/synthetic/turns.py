"""Formats a question as conversation turns: open-ended or multiple choice, optionally with thought.

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
    """A question as the user asks it, and the expected answer.

    Attributes:
      text: the user's text.
      answer: the assistant's text.
      truth: the fields an evaluation needs to score an answer.
    """

    text: str
    answer: str
    truth: dict


def open_ended(question: Question) -> Turn:
    """Asks for the answer itself."""
    truth = {
        "family": question.family,
        "format": "open",
        "answer": question.answer,
        "values": list(question.values),
    }
    if question.span:
        truth["span"] = list(question.span)
    return Turn(question.text, question.answer, truth)


def multiple_choice(question: Question, rng: np.random.Generator) -> Turn:
    """Offers up to four options, with the correct one at a uniformly drawn position.

    The answer names the option before its letter. A model that recognises the correct option then
    only has to copy the letter that follows it in the list, which it learns in minutes. A bare
    letter takes many times as long to learn.
    """
    others = [value for value in question.values if value != question.answer]
    options = [str(other) for other in rng.permutation(others)[: len(LETTERS) - 1]]
    position = int(rng.integers(len(options) + 1))
    options.insert(position, question.answer)
    lines = "\n".join(
        f"{option}({letter})" for letter, option in zip(LETTERS, options, strict=False)
    )
    text = f"{question.text}\n{lines}\nAnswer with one of these."
    truth = {
        "family": question.family,
        "format": "choice",
        "answer": LETTERS[position],
        "options": options,
    }
    return Turn(text, f"{question.answer}({LETTERS[position]})", truth)


def with_thought(turn: Turn, question: Question) -> Turn:
    """Asks for a thought, and puts the question's thought before the answer."""
    return Turn(
        turn.text + THINK_FIRST, f"<think>{question.thought}</think>{turn.answer}", turn.truth
    )


def sample(sample_id: str, video: dict, turns: list[Turn]) -> dict:
    """Returns the annotation of a conversation about one video."""
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
