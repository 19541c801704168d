"""The context of an episode: typed events, and the conversation that they form.

    C_0 = (overview, question),   C_{k+1} = C_k + (reasoning, actions, tool results)

It holds everything that the model sees, in order; nothing is rewritten or removed. The conversation
is in the annotation format, so an episode can be used as a training sample.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Fields that all events have.

    Attributes:
      step: turn of the model; 0 is before the first turn.
      time: seconds since the episode began.
      text: the event in words.
      tokens: number of tokens added to the context; 0 if another event of the turn added them.
      span: seconds of the video that it refers to.
      evidence: ids that it creates or cites.
      message: the message added to the conversation; the first event of a turn holds the full turn.
    """

    step: int
    time: float
    text: str
    tokens: int = 0
    span: Span | None = None
    evidence: tuple[str, ...] = ()
    message: dict | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction(Event):
    """The question, its `video` (length in `seconds`, `rate` in frames per second), the `tools`."""

    video: str
    seconds: float
    rate: float
    tools: tuple[dict, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation(Event):
    """Frames shown to the model, by index at the rate of the `Instruction`."""

    frames: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reasoning(Event):
    """The model's thought or text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action(Event):
    """A tool call: `name` and `arguments`."""

    name: str
    arguments: dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feedback(Event):
    """The response of a tool or of the loop; `refused` if the request was not carried out."""

    refused: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Event):
    """A label of a span, when it was written, or with an evidence id when a search returned it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification(Event):
    """Whether all evidence that an answer cites exists."""

    passed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer(Event):
    """The end of the episode; `forced` names the limit that ended it."""

    forced: str = ""


KINDS = (Instruction, Observation, Reasoning, Action, Feedback, Memory, Verification, Answer)


@dataclasses.dataclass(frozen=True)
class Episode:
    """All events, the first an `Instruction` and the last an `Answer`."""

    events: tuple[Event, ...]

    @property
    def instruction(self) -> Instruction:
        """The question and its video."""
        return self.events[0]

    @property
    def answer(self) -> Answer:
        """The answer; its text is empty if there was none."""
        return self.events[-1]

    @property
    def steps(self) -> int:
        """Number of turns of the model."""
        return self.answer.step

    @property
    def evidence(self) -> dict[str, Event]:
        """Evidence id -> event: inspected frames, or a label returned by a search."""
        evidence = {}
        for event in self.events:
            if isinstance(event, (Observation, Memory)):
                for name in event.evidence:
                    evidence.setdefault(name, event)
        return evidence

    @property
    def messages(self) -> list[dict]:
        """The conversation."""
        return [event.message for event in self.events if event.message is not None]


class Context:
    """Collects the events and messages of an episode.

    Args:
      tools: schemas of the available tools.
      count: counts the tokens of a conversation, {"messages": ..., "tools": ...}.
      clock: time in seconds, from any origin.
    """

    def __init__(
        self, tools: tuple[dict, ...], count: Callable[[dict], int], clock: Callable[[], float]
    ) -> None:
        self._tools, self._count, self._clock = tools, count, clock
        self._start = clock()
        self._events: list[Event] = []
        self._messages: list[dict] = []
        self._tokens = 0
        self._step = 0

    @property
    def step(self) -> int:
        """The current turn."""
        return self._step

    @property
    def tokens(self) -> int:
        """Number of tokens of the conversation, including the tool schemas."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """Seconds since the episode began."""
        return self._clock() - self._start

    @property
    def conversation(self) -> dict:
        """The conversation for the model to continue."""
        return {"messages": list(self._messages), "tools": list(self._tools)}

    @property
    def episode(self) -> Episode:
        """All events so far."""
        return Episode(tuple(self._events))

    def begin_step(self) -> None:
        """Begins the model's next turn."""
        self._step += 1

    def add(
        self, kind: type[Event], text: str, *, message: dict | None = None, **fields: Any
    ) -> None:
        """Appends an event, and its message to the conversation."""
        added = 0
        if message is not None:
            self._messages.append(message)
            total = self._count(self.conversation)
            added, self._tokens = total - self._tokens, total
        time = round(self.seconds, 3)
        self._events.append(
            kind(step=self._step, time=time, text=text, tokens=added, message=message, **fields)
        )
