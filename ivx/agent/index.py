"""The index of a video: a short label for each shot, written by the model itself.

shots of equal length --(each alone: "What is seen in the clip?")--> labels
"""

from data_pipelines.views import VideoFile, ViewConfig
from ivx.agent.chat_model import ChatModel
from ivx.text import agent_texts
from ivx.text.labels import NOTHING, Label


def write(model: ChatModel, video_file: VideoFile, view_config: ViewConfig) -> tuple[Label, ...]:
    """Labels of all shots, in temporal order."""
    spans = video_file.shots(view_config)
    question = {"type": "text", "text": agent_texts.question(agent_texts.LABEL_QUESTION)}
    answers = model.ask(
        [
            {
                "messages": [
                    {"role": "user", "content": [video_file.shot_view(span, view_config), question]}
                ]
            }
            for span in spans
        ]
    )
    return tuple(Label(span, _line(text)) for span, text in zip(spans, answers, strict=True))


def _line(text: str) -> str:
    """The first line of an answer."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else NOTHING
