"""Formats of annotations: each turns an entry of a file into annotations of the message format.

A format is a function (value, where, fields, suffix) -> annotations; `value` is an entry of a file,
`where` its place, `fields` and `suffix` what the mixture says of columns and names of videos. It
raises `AnnotationError` for an entry of another form. All that follows, the check of messages,
media and ids, is the same for every format (`data_pipelines.sources`).
"""

from data_pipelines.formats import (
    charades,
    internvideo3,
    messages,
    qvhighlights,
    timelens,
    video_r1,
)

MESSAGES = "messages"
FORMATS = {
    MESSAGES: messages.convert,
    "charades": charades.convert,
    "timelens": timelens.convert,
    "qvhighlights": qvhighlights.convert,
    "video_r1": video_r1.convert,
    "internvideo3": internvideo3.convert,
}
