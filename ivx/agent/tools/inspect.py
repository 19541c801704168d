"""`inspect`: dense frames of a span, at their times in the whole video.

The span is that of an evidence, a label that was found say, or is given in seconds. An id is copied
more safely than two numbers.
"""

import math

from data_pipelines.media_error import MediaError
from ivx.agent.tool import Evidence, Result, World
from ivx.text import agent_texts

# One slice.
_FEWEST_FRAMES = 2


class Inspect:
    """Shows a span again, as densely as the budget allows."""

    name = "inspect"
    schema = agent_texts.INSPECT

    def call(self, arguments: dict, world: World) -> Result:
        """The frames of [start, end), the end cut at that of the video."""
        length, name = world.footage.seconds, arguments.get("evidence")
        if name is None:
            start, end = (_seconds(arguments.get(key)) for key in ("start", "end"))
        elif not isinstance(name, str) or name not in world.names.given:
            text = agent_texts.no_such_evidence([str(name)], world.names.given)
            return Result(text, refused=True)
        else:
            start, end = world.names.span(name)
        refusal = Result(agent_texts.no_such_span(length), refused=True)
        if start is None or end is None or not 0 <= start < min(end, length):
            return refusal
        if world.frames_left < _FEWEST_FRAMES:
            return Result(agent_texts.NO_FRAMES, refused=True)
        span = (start, min(end, round(length, 1)))
        view = world.footage.dense(span, world.looks, world.frames_left)
        try:
            frames = world.asker.frames(view)
        except MediaError:
            return refusal
        world.frames_left -= len(frames)
        name = world.names.name(span)
        return Result(agent_texts.seen(span, name), view, frames, (Evidence(name, span),))


def _seconds(value) -> float | None:
    """A time as a number with one decimal, as times are told; None if it is none."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(seconds, 1) if math.isfinite(seconds) else None
