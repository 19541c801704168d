"""One training or evaluation sample, independent of its source and annotation format."""

import dataclasses

from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.sources.overrides import Overrides


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
      id: unique within its data set.
      messages: in the form that the chat template renders.
      videos: in the order of their items in the messages.
      truths: for each answer, what an evaluation compares it with (format, answer, options, span).
      tools: schemas of the tools that the assistant may call.
      images: in the order of their items in the messages.
      overrides: layout settings of its data set.
      where: file:line of the annotation, for messages.
    """

    id: str
    messages: tuple[dict, ...]
    videos: tuple[VideoRef, ...]
    truths: tuple[dict, ...] = ()
    tools: tuple[dict, ...] = ()
    images: tuple[ImageRef, ...] = ()
    overrides: Overrides | None = None
    where: str = ""
