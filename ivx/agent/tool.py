"""The interface of tools: their protocol, the state they share, and their results."""

import dataclasses
from typing import Protocol, runtime_checkable

from data_pipelines.views import Span, VideoFile, ViewConfig
from ivx.agent.chat_model import ChatModel
from ivx.text.evidence import EvidenceNames
from ivx.text.labels import Label


@dataclasses.dataclass
class World:
    """State of an episode that tools share.

    Attributes:
      video_file: the video.
      view_config: how densely frames are sampled.
      model: the model.
      names: ids of the evidence so far.
      frames_left: remaining frame budget.
      index: labels of all shots; None until they are written.
    """

    video_file: VideoFile
    view_config: ViewConfig
    model: ChatModel
    names: EvidenceNames
    frames_left: int
    index: tuple[Label, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence that an answer can cite: the frames of a span, or with `text` its label."""

    id: str
    span: Span
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a call.

    Attributes:
      text: message for the model, with a placeholder for `view`.
      view: a video item to show.
      frames: indices of the shown frames, at the rate of the video.
      evidence: new evidence.
      written: labels written during the call.
      refused: the call was not carried out; `text` says why.
      answer: the answer of `finish`; ends the episode unless refused.
      cited: ids that the answer cites.
      corrected: the answer was replaced by the span of its evidence; `text` says why.
    """

    text: str
    view: dict | None = None
    frames: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    written: tuple[Label, ...] = ()
    refused: bool = False
    answer: str | None = None
    cited: tuple[str, ...] = ()
    corrected: bool = False


@runtime_checkable
class Tool(Protocol):
    """A function that the model can call.

    Attributes:
      name: as in its schema.
      schema: {"type": "function", "function": {...}}.
    """

    name: str
    schema: dict

    def call(self, arguments: dict, world: World) -> Result:
        """Runs the call; invalid arguments are refused with a message, never raised."""
