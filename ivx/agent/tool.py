"""What a tool is, what it may touch and what it gives."""

import dataclasses
from typing import Protocol

from data_pipelines.views import Footage, Looks, Span
from ivx.agent.asker import Asker
from ivx.text.evidence import EvidenceNames
from ivx.text.labels import Label


@dataclasses.dataclass
class World:
    """The video, the model and what has been found out so far.

    Attributes:
      footage: the video.
      looks: how densely it is looked at.
      asker: the model.
      names: ids of the evidence so far.
      frames_left: frames that may still be shown.
      index: labels of all shots; None until they have been written.
    """

    footage: Footage
    looks: Looks
    asker: Asker
    names: EvidenceNames
    frames_left: int
    index: tuple[Label, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Something that an answer may cite: frames of a span, or with `text` a label of it."""

    id: str
    span: Span
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a call gave.

    Attributes:
      text: told to the model, with a placeholder where `view` goes.
      view: a video item to be shown.
      frames: display indices of the frames that are shown of it.
      evidence: what may now be cited.
      written: labels that were written on the way.
      refused: the call could not be done; `text` says why.
      answer: what `finish` was given; it ends the episode unless refused.
      cited: ids that the answer cites.
      mended: the answer is not what was said, but what its evidence says; `text` says why.
    """

    text: str
    view: dict | None = None
    frames: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    written: tuple[Label, ...] = ()
    refused: bool = False
    answer: str | None = None
    cited: tuple[str, ...] = ()
    mended: bool = False


class Tool(Protocol):
    """A function that the model may call.

    Attributes:
      name: as in its schema.
      schema: {"type": "function", "function": {...}}.
    """

    name: str
    schema: dict

    def call(self, arguments: dict, world: World) -> Result:
        """Does what it is asked to; arguments of any kind are refused in words, never raised."""
