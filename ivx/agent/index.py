"""The index of a video: a short label on each of its shots, written by the model itself.

shots of equal length --(each alone: "What is seen in the clip?")--> labels
"""

from data_pipelines.views import Footage, Looks
from ivx.agent.asker import Asker
from ivx.text import agent_texts
from ivx.text.labels import NOTHING, Label


def write(asker: Asker, footage: Footage, looks: Looks) -> tuple[Label, ...]:
    """Labels of all shots, in order of time."""
    spans = footage.shots(looks)
    question = {"type": "text", "text": agent_texts.question(agent_texts.LABEL_QUESTION)}
    answers = asker.ask(
        [
            {"messages": [{"role": "user", "content": [footage.shot(span, looks), question]}]}
            for span in spans
        ]
    )
    return tuple(Label(span, _line(text)) for span, text in zip(spans, answers, strict=True))


def _line(text: str) -> str:
    """The first line of an answer."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else NOTHING
