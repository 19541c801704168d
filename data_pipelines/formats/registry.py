"""The table of annotation formats by name.

A format is a function (value, where, fields, suffix) -> annotations:

    value    an entry of an annotation file
    where    file:line of the entry, for messages
    fields   column names from the mixture, by what the columns hold
    suffix   from the mixture, appended to video names without one

It raises `AnnotationError` if the entry has another form. In the list, an `AnnotationError` stands
for a question that is unusable, so that the others of its entry are read. Messages, media, truths
and ids are checked afterwards, in the same way for every format (`data_pipelines.sources`).
"""

from collections.abc import Callable
from typing import Any

from data_pipelines.formats import charades, internvideo3, qvhighlights, timelens, video_r1

MESSAGES = "messages"


def _messages(value: Any, where: str, fields: dict[str, str], suffix: str) -> list[Any]:
    """The message format (`data_pipelines.sources.messages`): returns the entry unchanged."""
    del where, fields, suffix
    return [value]


FORMATS: dict[str, Callable[[Any, str, dict[str, str], str], list[Any]]] = {
    MESSAGES: _messages,
    "charades": charades.convert,
    "timelens": timelens.convert,
    "qvhighlights": qvhighlights.convert,
    "video_r1": video_r1.convert,
    "internvideo3": internvideo3.convert,
}
