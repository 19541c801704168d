"""Agent traces of an oracle: how to find something in a long video, looking only where it may be.

The oracle knows the scene, and works with the agent's own tools and texts:

    overview, question -> search_video -> labels, some of them wrong
                       -> inspect      -> dense frames; again elsewhere if they do not show it
                       -> finish, citing the frames that did

Beside its trace, a scene gives samples of the short question by which an agent labels shots. What
the oracle does about the results of a search can be learnt without frames, in few tokens:
`search_in_words`.
"""

import dataclasses
import json

import numpy as np

from data_pipelines.synthetic import needles
from data_pipelines.synthetic.families import Question
from data_pipelines.synthetic.needles import Film, Task, thing
from data_pipelines.synthetic.scene import Actor, Scene
from data_pipelines.views import Looks, Span
from ivx.text import agent_texts
from ivx.text.evidence import EvidenceNames
from ivx.text.labels import NOTHING, Label, search

# Spans that a trace has room for.
_MOST_INSPECTED = 2
# Share of traces in which there are few steps, and what they then are.
_HURRIED, _FEW = 0.15, (2, 3)

_NOT_YET = "Nothing is found yet, look again."
_NOTHING_SEEN = "Nothing is seen, look again."


@dataclasses.dataclass(frozen=True)
class Trace:
    """A scene and what is learnt from it.

    Attributes:
      scene: to be drawn to the address that the samples name.
      question: what the trace answers; whoever evaluates an agent asks it.
      samples: annotations without ids: the trace, then labels of single shots.
    """

    scene: Scene
    question: Question
    samples: tuple[dict, ...]


def needle_trace(rng: np.random.Generator, url: str, looks: Looks | None = None) -> Trace:
    """Invents a scene and lets the oracle search it.

    Args:
      rng: decides everything.
      url: where the video of the scene will be, relative to the media root.
      looks: how densely the agent looks; the agent's default if None.
    """
    film, task = needles.invent(rng, url, looks or Looks())
    messages = None
    while messages is None:
        labels = needles.mistaken(rng, film.labels())
        steps = int(rng.choice(_FEW)) if rng.random() < _HURRIED else None
        messages = _Oracle(film, task, labels, steps).solve()
    trace = {"messages": messages, "tools": list(agent_texts.TOOLS)}
    return Trace(film.scene, task.question, (trace, *_label_samples(rng, film)))


def search_in_words(rng: np.random.Generator) -> dict:
    """A sample without video or offer: a search, what it found, and the one call that follows.

    That call looks at the first thing found, or if it has to be the last one, answers by it.

    Args:
      rng: decides everything.
    """
    film, task = needles.invent(rng, "", Looks())
    messages = None
    while messages is None:
        labels = needles.mistaken(rng, film.labels())
        messages = _Oracle(film, task, labels, rng.choice([None, 2])).solve()
    _, search, *rest = messages
    follows = next(
        i for i, turn in enumerate(rest) for call in turn.get("tool_calls", ()) if _ends(call)
    )
    return {
        "messages": [
            {"role": "user", "content": task.question.text},
            # What is thought before the first search hangs on frames that are not there.
            search | {"loss": False},
            *rest[: follows + 1],
        ]
    }


def step(rng: np.random.Generator, trace: Trace) -> dict:
    """One turn of a trace as a question, all before it being the context, with the truth."""
    whole = trace.samples[0]
    turns = [i for i, turn in enumerate(whole["messages"]) if turn["role"] == "assistant"]
    last = int(rng.choice(turns))
    [call] = whole["messages"][last]["tool_calls"]
    truth = {"family": "agent_call", "format": "call", "answer": json.dumps(call)}
    return whole | {"messages": whole["messages"][: last + 1], "truths": [truth]}


def _ends(call: dict) -> bool:
    return call["name"] != agent_texts.SEARCH_VIDEO["function"]["name"]


class _Oracle:
    """Finds the answer by looking, and writes down the conversation.

    Args:
      film: what there is to see.
      task: what is asked.
      labels: the index that a search looks into.
      steps: turns that it may take; None is enough of them.
    """

    def __init__(self, film: Film, task: Task, labels: list[Label], steps: int | None):
        self._film, self._task = film, task
        self._labels, self._steps = labels, steps
        self._names = EvidenceNames()
        self._messages: list[dict] = []
        self._turns = 0

    def solve(self) -> list[dict] | None:
        """The messages; None if more spans would have to be looked at than there is room for."""
        task, film = self._task, self._film
        overview = film.footage.overview(film.looks)
        self._messages.append(_turn("user", agent_texts.question(task.question.text), overview))
        found = self._search(_look_again(film.shown(overview), _NOT_YET), task.query)
        if not found and not self._is_last():
            found = self._search(_NOT_YET, "")
        thought = f"A {found[0].text} is found, look again." if found else _NOT_YET
        for number, label in enumerate(found[:_MOST_INSPECTED]):
            if self._is_last():
                return self._finish_by(found[number:])
            seen = self._inspect(thought, label)
            if film.sought in seen:
                return self._finish_by_sight(label.span)
            thought = _look_again(seen, _NOTHING_SEEN)
        return self._finish_by(found[_MOST_INSPECTED:]) if self._is_last() else None

    def _is_last(self) -> bool:
        return self._turns + 1 == self._steps

    def _search(self, thought: str, query: str) -> list[Label]:
        found = search(self._labels, query, agent_texts.MOST_HITS)
        self._act(thought, agent_texts.SEARCH_VIDEO, {"query": query})
        names = [self._names.name(label) for label in found]
        self._messages.append({"role": "tool", "content": agent_texts.hits(found, names)})
        return found

    def _inspect(self, thought: str, label: Label) -> list[Actor]:
        span = label.span
        view = self._film.dense(span)
        self._act(thought, agent_texts.INSPECT, {"evidence": self._names.name(label)})
        text = agent_texts.seen(span, self._names.name(span))
        self._messages.append(_turn("tool", text, view))
        return self._film.shown(view)

    def _finish_by_sight(self, span: Span) -> list[dict]:
        """Answers with what the frames of `span` show."""
        answer, name = self._task.question.answer, thing(self._film.sought)
        timed = self._task.question.span is not None
        thought = f"The {name} is seen from {answer}." if timed else f"A {name} is seen."
        return self._finish(thought, answer, [self._names.name(span)])

    def _finish_by(self, found: list[Label]) -> list[dict]:
        """Answers with what the first of these labels says: there is no step left to look."""
        if not found:
            return self._finish(_NOT_YET, NOTHING, [])
        thought = f"A {found[0].text} is found."
        return self._finish(thought, self._task.answer_by(found[0]), [self._names.name(found[0])])

    def _finish(self, thought: str, answer: str, evidence: list[str]) -> list[dict]:
        if self._is_last():
            self._messages.append({"role": "tool", "content": agent_texts.LAST_STEP})
        self._act(thought, agent_texts.FINISH, {"answer": answer, "evidence": evidence})
        return self._messages

    def _act(self, thought: str, tool: dict, arguments: dict) -> None:
        self._turns += 1
        call = {"name": tool["function"]["name"], "arguments": arguments}
        self._messages.append(
            {"role": "assistant", "content": f"<think>{thought}</think>", "tool_calls": [call]}
        )


def _look_again(seen: list[Actor], otherwise: str) -> str:
    """The thought after a look that did not settle the question."""
    return f"A {thing(seen[0])} is seen, look again." if seen else otherwise


def _label_samples(rng: np.random.Generator, film: Film) -> list[dict]:
    """The question of the index, of a shot that shows something and of one that does not."""
    labels = film.labels()
    told = [label for label in labels if label.text != NOTHING]
    empty = [label for label in labels if label.text == NOTHING]
    # No more of them, or they crowd out the traces, which are harder to learn.
    chosen = [kind[rng.integers(len(kind))] for kind in (told, empty) if kind]
    text = agent_texts.question(agent_texts.LABEL_QUESTION)
    return [
        {
            "messages": [
                _turn("user", text, film.footage.shot(label.span, film.looks)),
                {"role": "assistant", "content": label.text},
            ]
        }
        for label in sorted(chosen, key=lambda label: label.span)
    ]


def _turn(role: str, text: str, video: dict) -> dict:
    return {"role": role, "content": [video, {"type": "text", "text": text}]}
