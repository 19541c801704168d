"""An agent driven by scripted model turns, on a video that is never decoded."""

import json

from data_pipelines.video import frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import VideoFile
from ivx.agent import context, loop
from ivx.text.tool_calls import render_call

# A minute at two frames a second: ten shots of six seconds.
FOOTAGE = VideoFile("film.mp4", VideoInfo(120, 2.0, 64, 64))
LABELS = {18.0: "red circle", 42.0: "red square"}


class Script:
    """A `ChatModel` that replies with given turns, and labels shots by their start times."""

    def __init__(self, *turns: str):
        self._turns = list(turns)
        self.asked = []

    def ask(self, conversations):
        if "tools" not in conversations[0]:
            spans = [c["messages"][0]["content"][0]["video_url"]["span"] for c in conversations]
            return [LABELS.get(span[0], "nothing") for span in spans]
        self.asked += conversations
        return [self._turns.pop(0)]

    def count(self, conversation):
        return len(json.dumps(conversation).split())

    def frames(self, view):
        video = view["video_url"]
        rule = frames.FrameRule(video["fps"], 2, 64)
        return tuple(frames.frame_indices(FOOTAGE.info, rule, video.get("span")).tolist())


def search(query: str) -> str:
    return render_call("search_video", {"query": query})


def inspect(start: float, end: float) -> str:
    return render_call("inspect", {"start": start, "end": end})


def finish(answer: str, *evidence: str) -> str:
    return render_call("finish", {"answer": answer, "evidence": list(evidence)})


def run(*turns: str, **options) -> context.Episode:
    ticks = iter(range(10**6))
    return loop.run(Script(*turns), FOOTAGE, "What?", clock=lambda: float(next(ticks)), **options)


def run_well() -> context.Episode:
    """An episode that searches, inspects the hit, and cites it in the answer."""
    return run(
        f"<think>Look again.</think>\n{search('circle')}",
        f"<think>Here.</think>\n{inspect(18.0, 24.0)}",
        f"<think>A red circle is seen.</think>\n{finish('red circle', 'e2')}",
    )


def feedback(episode: context.Episode) -> list[str]:
    return [event.text for event in episode.events if isinstance(event, context.Feedback)]


def kinds(episode: context.Episode) -> list[str]:
    return [type(event).__name__ for event in episode.events]
