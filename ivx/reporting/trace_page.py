"""The page of an agent's episode: a self-contained trace.html, made from its events."""

import dataclasses
import pathlib

from data_pipelines.media_error import MediaError
from ivx.agent import context
from ivx.agent.context import Episode, Event
from ivx.reporting import frames, template

FILE = "trace.html"


@dataclasses.dataclass(frozen=True)
class Picture:
    """One frame: its time in the video, in seconds, and its data: URL."""

    time: float
    source: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One event on the page; `pictures` is None if the video can no longer be read."""

    kind: str
    event: Event
    pictures: list[Picture] | None


@dataclasses.dataclass(frozen=True)
class Mark:
    """A span on the timeline, in per cent of the video."""

    kind: str
    left: float
    width: float
    title: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The true answer of an episode's question, and the score of the agent's in [0, 1]."""

    truth: str
    points: float


def write(folder: pathlib.Path, episode: Episode, verdict: Verdict | None = None) -> pathlib.Path:
    """Writes `folder`/trace.html.

    Args:
      folder: created if missing.
      episode: the episode.
      verdict: shown if the truth is known.
    """
    steps = {}
    for event in episode.events:
        # Labels are many; the timeline shows them.
        if not isinstance(event, context.Memory):
            steps.setdefault(event.step, []).append(_row(event, episode))
    labels = [e for e in episode.events if isinstance(e, context.Memory) and not e.evidence]
    return template.write(
        folder / FILE,
        "trace.html.jinja",
        question=episode.instruction,
        answer=episode.answer,
        verdict=verdict,
        failure=_failure(episode, verdict),
        cited=[(name, episode.evidence[name]) for name in episode.answer.evidence],
        facts={
            "video": pathlib.PurePath(episode.instruction.video).name or "unknown",
            "length": f"{episode.instruction.seconds:.1f} s",
            "steps": str(episode.steps),
            "frames": str(sum(len(e.frames) for e in _observations(episode))),
            "tokens": f"{sum(event.tokens for event in episode.events):,}",
            "time": f"{episode.answer.time:.1f} s",
        },
        lanes=_lanes(episode, labels),
        labels=labels,
        steps=steps,
    )


def _failure(episode: Episode, verdict: Verdict | None) -> str:
    """Why an episode failed, or nothing."""
    if not episode.answer.text.strip():
        return "failed: no answer"
    if verdict and verdict.points < 0.5:
        return f"failed: wrong answer, score {verdict.points:.2f}"
    if episode.answer.forced:
        return "failed: the agent called no finish"
    return ""


def _observations(episode: Episode) -> list[context.Observation]:
    return [event for event in episode.events if isinstance(event, context.Observation)]


def _row(event: Event, episode: Episode) -> Row:
    pictures = []
    if isinstance(event, context.Observation):
        # The last index may repeat, to fill a slice.
        indices = sorted(set(event.frames))
        try:
            sources = frames.thumbnails(episode.instruction.video, indices)
            pictures = [
                Picture(index / episode.instruction.rate, source)
                for index, source in zip(indices, sources, strict=True)
            ]
        except MediaError:
            pictures = None
    return Row(type(event).__name__.lower(), event, pictures)


def _lanes(episode: Episode, labels: list[context.Memory]) -> dict[str, list[Mark]]:
    """Spans of the video that the agent looked at, one lane for each way of looking."""
    overview, *inspected = _observations(episode)
    rate = episode.instruction.rate
    glances = [(index / rate, (index + 1) / rate) for index in overview.frames]
    lanes = {"overview": [_mark(episode, "glance", span, "") for span in glances]}
    if labels:
        lanes["labels"] = [_mark(episode, "label", e.span, e.text) for e in labels]
    if inspected:
        lanes["inspected"] = [
            _mark(
                episode,
                "cited" if set(event.evidence) & set(episode.answer.evidence) else "inspected",
                event.span,
                ", ".join(event.evidence),
            )
            for event in inspected
        ]
    return lanes


def _mark(episode: Episode, kind: str, span: tuple[float, float], title: str) -> Mark:
    length = episode.instruction.seconds
    return Mark(kind, 100 * span[0] / length, 100 * (span[1] - span[0]) / length, title)
