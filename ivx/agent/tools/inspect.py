"""`inspect`: dense frames of a span, with their timestamps in the full video.

The span is that of an evidence id, such as a label from a search, or is given in seconds. Models
copy an id more reliably than two numbers.
"""

import math
from typing import Any

from data_pipelines.media_error import MediaError
from ivx.agent.tool import Evidence, Result, World
from ivx.text import agent_texts

# One slice.
_MIN_FRAMES = 2


class Inspect:
    """Shows a span as densely as the budget allows."""

    name = "inspect"
    schema = agent_texts.INSPECT

    def call(self, arguments: dict, world: World) -> Result:
        """The frames of [start, end), clipped to the end of the video."""
        length, name = world.video_file.seconds, arguments.get("evidence")
        if name is None:
            start, end = (_seconds(arguments.get(key)) for key in ("start", "end"))
        elif not isinstance(name, str) or name not in world.names.assigned:
            text = agent_texts.no_such_evidence([str(name)], world.names.assigned)
            return Result(text, refused=True)
        else:
            start, end = world.names.span(name)
        refusal = Result(agent_texts.no_such_span(length), refused=True)
        if start is None or end is None or not 0 <= start < min(end, length):
            return refusal
        if world.frames_left < _MIN_FRAMES:
            return Result(agent_texts.NO_FRAMES, refused=True)
        span = (start, min(end, round(length, 1)))
        view = world.video_file.dense_view(span, world.view_config, world.frames_left)
        try:
            frames = world.model.frames(view)
        except MediaError:
            return refusal
        world.frames_left -= len(frames)
        name = world.names.name(span)
        return Result(agent_texts.seen(span, name), view, frames, (Evidence(name, span),))


def _seconds(value: Any) -> float | None:
    """A time rounded to one decimal, as the model sees times; None if it is not a number."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(seconds, 1) if math.isfinite(seconds) else None
