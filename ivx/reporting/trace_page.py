"""The page of an agent's episode: a self-contained trace.html, made from its events."""

import dataclasses
import pathlib

import jinja2

from data_pipelines.media_error import MediaError
from ivx.agent import context
from ivx.agent.context import Episode, Event
from ivx.reporting import frames

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


def write(folder: pathlib.Path, episode: Episode) -> pathlib.Path:
    """Writes `folder`/trace.html."""
    steps = {}
    for event in episode.events:
        # Labels are many; the timeline shows them.
        if not isinstance(event, context.Memory):
            steps.setdefault(event.step, []).append(_row(event, episode))
    labels = [e for e in episode.events if isinstance(e, context.Memory) and not e.evidence]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ivx.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("trace.html.jinja").render(
        question=episode.instruction,
        answer=episode.answer,
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
    path = folder / FILE
    path.write_text(page, encoding="utf-8")
    return path


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
