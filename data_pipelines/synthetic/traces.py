"""Agent traces that an oracle writes: finding an object in a long video by search and inspection.

The oracle knows the scene, and uses the agent's own tools and texts:

    overview, question -> search_video -> labels, some of them wrong
                       -> inspect      -> dense frames; another span if they do not show the object
                       -> finish       -> the answer, citing the frames that showed the object

Each scene also gives samples of the short question by which an agent labels shots. The behaviour
after a search can be learned without frames and in few tokens from `search_in_words`.
"""

import dataclasses
import json

import numpy as np

from data_pipelines.synthetic import needles
from data_pipelines.synthetic.families import Question
from data_pipelines.synthetic.needles import NeedleVideo, Task, object_name
from data_pipelines.synthetic.scene import Actor, Scene
from data_pipelines.views import Span, ViewConfig
from ivx.text import agent_texts
from ivx.text.evidence import EvidenceNames
from ivx.text.labels import NOTHING, Label, search

# Spans that a trace has room to inspect.
_MAX_INSPECTED = 2
# Probability of a small step budget, and the possible budgets.
_HURRIED, _FEW_STEPS = 0.15, (2, 3)

_NOT_FOUND_YET = "Nothing is found yet, look again."
_NOTHING_SEEN = "Nothing is seen, look again."


@dataclasses.dataclass(frozen=True)
class Trace:
    """A scene and its training samples.

    Attributes:
      scene: to be rendered to the url in the samples.
      question: that the trace answers; an evaluation of agents asks it.
      samples: annotations without ids: the trace, then labels of single shots.
    """

    scene: Scene
    question: Question
    samples: tuple[dict, ...]


def needle_trace(
    rng: np.random.Generator, url: str, view_config: ViewConfig | None = None
) -> Trace:
    """Generates a video and lets the oracle search it.

    Args:
      rng: the only source of randomness.
      url: the path of the video, relative to the media root.
      view_config: the density of the agent's views; the agent's default if None.
    """
    video, task = needles.generate(rng, url, view_config or ViewConfig())
    messages = None
    while messages is None:
        labels = needles.corrupt(rng, video.true_labels())
        steps = int(rng.choice(_FEW_STEPS)) if rng.random() < _HURRIED else None
        messages = _Oracle(video, task, labels, steps).solve()
    trace = {"messages": messages, "tools": list(agent_texts.TOOLS)}
    return Trace(video.scene, task.question, (trace, *_label_samples(rng, video)))


def search_in_words(rng: np.random.Generator) -> dict:
    """A sample without video or tool schemas: a search, its results, and the next call.

    The next call inspects the first result, or finishes with its label on the last step.

    Args:
      rng: the only source of randomness.
    """
    video, task = needles.generate(rng, "", ViewConfig())
    messages = None
    while messages is None:
        labels = needles.corrupt(rng, video.true_labels())
        messages = _Oracle(video, task, labels, rng.choice([None, 2])).solve()
    _, first_search, *rest = messages
    last = next(
        i
        for i, message in enumerate(rest)
        for call in message.get("tool_calls", ())
        if not _is_search(call)
    )
    return {
        "messages": [
            {"role": "user", "content": task.question.text},
            # The thought before the first search depends on frames that this sample lacks.
            first_search | {"loss": False},
            *rest[: last + 1],
        ]
    }


def step(rng: np.random.Generator, trace: Trace) -> dict:
    """Cuts a trace after a random call, which becomes the expected answer."""
    full = trace.samples[0]
    turns = [i for i, turn in enumerate(full["messages"]) if turn["role"] == "assistant"]
    last = int(rng.choice(turns))
    [call] = full["messages"][last]["tool_calls"]
    truth = {"family": "agent_call", "format": "call", "answer": json.dumps(call)}
    return full | {"messages": full["messages"][: last + 1], "truths": [truth]}


def _is_search(call: dict) -> bool:
    return call["name"] == agent_texts.SEARCH_VIDEO["function"]["name"]


class _Oracle:
    """Finds the answer by inspection, and records the conversation.

    Args:
      video: to search.
      task: the question.
      labels: the index that a search reads.
      steps: the number of calls it may make; None is unlimited.
    """

    def __init__(
        self, video: NeedleVideo, task: Task, labels: list[Label], steps: int | None
    ) -> None:
        self._video, self._task = video, task
        self._labels, self._steps = labels, steps
        self._names = EvidenceNames()
        self._messages: list[dict] = []
        self._turns = 0

    def solve(self) -> list[dict] | None:
        """Returns the messages, or None if it would have to inspect too many spans."""
        task, video = self._task, self._video
        overview = video.video_file.overview(video.view_config)
        self._messages.append(_turn("user", agent_texts.question(task.question.text), overview))
        thought = _thought_after_view(video.visible_actors(overview), _NOT_FOUND_YET)
        hits = self._search(thought, task.query)
        if not hits and not self._is_last():
            hits = self._search(_NOT_FOUND_YET, "")
        thought = f"A {hits[0].text} is found, look again." if hits else _NOT_FOUND_YET
        for number, label in enumerate(hits[:_MAX_INSPECTED]):
            if self._is_last():
                return self._finish_from_labels(hits[number:])
            visible = self._inspect(thought, label)
            if video.target in visible:
                return self._finish_from_frames(label.span)
            thought = _thought_after_view(visible, _NOTHING_SEEN)
        return self._finish_from_labels(hits[_MAX_INSPECTED:]) if self._is_last() else None

    def _is_last(self) -> bool:
        return self._turns + 1 == self._steps

    def _search(self, thought: str, query: str) -> list[Label]:
        hits = search(self._labels, query, agent_texts.MOST_HITS)
        self._call(thought, agent_texts.SEARCH_VIDEO, {"query": query})
        names = [self._names.name(label) for label in hits]
        self._messages.append({"role": "tool", "content": agent_texts.hits(hits, names)})
        return hits

    def _inspect(self, thought: str, label: Label) -> list[Actor]:
        span = label.span
        view = self._video.dense_view(span)
        self._call(thought, agent_texts.INSPECT, {"evidence": self._names.name(label)})
        text = agent_texts.seen(span, self._names.name(span))
        self._messages.append(_turn("tool", text, view))
        return self._video.visible_actors(view)

    def _finish_from_frames(self, span: Span) -> list[dict]:
        """Finishes with the true answer, which the frames of `span` show."""
        answer, name = self._task.question.answer, object_name(self._video.target)
        timed = self._task.question.span is not None
        thought = f"The {name} is seen from {answer}." if timed else f"A {name} is seen."
        return self._finish(thought, answer, [self._names.name(span)])

    def _finish_from_labels(self, hits: list[Label]) -> list[dict]:
        """Finishes with the answer of the first label, as no step is left to inspect it."""
        if not hits:
            return self._finish(_NOT_FOUND_YET, NOTHING, [])
        thought = f"A {hits[0].text} is found."
        answer, evidence = self._task.answer_from(hits[0]), self._names.name(hits[0])
        return self._finish(thought, answer, [evidence])

    def _finish(self, thought: str, answer: str, evidence: list[str]) -> list[dict]:
        if self._is_last():
            self._messages.append({"role": "tool", "content": agent_texts.LAST_STEP})
        self._call(thought, agent_texts.FINISH, {"answer": answer, "evidence": evidence})
        return self._messages

    def _call(self, thought: str, tool: dict, arguments: dict) -> None:
        self._turns += 1
        call = {"name": tool["function"]["name"], "arguments": arguments}
        self._messages.append(
            {"role": "assistant", "content": f"<think>{thought}</think>", "tool_calls": [call]}
        )


def _thought_after_view(visible: list[Actor], default: str) -> str:
    """The thought after a view that did not settle the question."""
    return f"A {object_name(visible[0])} is seen, look again." if visible else default


def _label_samples(rng: np.random.Generator, video: NeedleVideo) -> list[dict]:
    """Label questions about one shot that shows an object and one that does not."""
    labels = video.true_labels()
    positive = [label for label in labels if label.text != NOTHING]
    negative = [label for label in labels if label.text == NOTHING]
    # More label samples would crowd out the traces, which are harder to learn.
    selected = [group[rng.integers(len(group))] for group in (positive, negative) if group]
    text = agent_texts.question(agent_texts.LABEL_QUESTION)
    return [
        {
            "messages": [
                _turn("user", text, video.video_file.shot_view(label.span, video.view_config)),
                {"role": "assistant", "content": label.text},
            ]
        }
        for label in sorted(selected, key=lambda label: label.span)
    ]


def _turn(role: str, text: str, video: dict) -> dict:
    return {"role": role, "content": [video, {"type": "text", "text": text}]}
