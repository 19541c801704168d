"""The shared context of an episode: typed events, and the conversation that they make up.

    C_0 = (overview, question),   C_{k+1} = C_k + (reasoning, actions, what the tools gave)

All that the model ever sees is in it, in the order in which it came; nothing is rewritten or left
out. The conversation is in the annotation format, so that an episode is a training sample as it is.
"""

import dataclasses
from collections.abc import Callable

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """What all kinds of events say.

    Attributes:
      step: the model's turn that it belongs to; 0 comes before the first.
      time: seconds since the episode began.
      text: in words.
      tokens: what it added to the context; 0 where another event of the turn brought the message.
      span: seconds of the video that it is about.
      evidence: ids that it gives or cites.
      message: what it added to the conversation; the first event of a turn brings the whole turn.
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
    """The question, of a `video` of so many `seconds` at `rate` frames each, and the `tools`."""

    video: str
    seconds: float
    rate: float
    tools: tuple[dict, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation(Event):
    """Frames that were shown, by their display indices."""

    frames: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reasoning(Event):
    """What the model thought or said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action(Event):
    """A call: the tool's `name` and its `arguments`."""

    name: str
    arguments: dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feedback(Event):
    """What a tool, or the loop itself, answered; `refused` where it did not do as it was told."""

    refused: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Event):
    """A label of a span: as it was written, or with an id of evidence as it was found again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification(Event):
    """Whether all that an answer cites exists."""

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
        """The question and what it is about."""
        return self.events[0]

    @property
    def answer(self) -> Answer:
        """The answer; its text is empty if none came."""
        return self.events[-1]

    @property
    def steps(self) -> int:
        """Turns that the model took."""
        return self.answer.step

    @property
    def evidence(self) -> dict[str, Event]:
        """What each id names: frames that were inspected, or a label that was found."""
        found = {}
        for event in self.events:
            if isinstance(event, (Observation, Memory)):
                for name in event.evidence:
                    found.setdefault(name, event)
        return found

    @property
    def messages(self) -> list[dict]:
        """The conversation."""
        return [event.message for event in self.events if event.message is not None]


class Context:
    """Events and conversation as they grow.

    Args:
      tools: schemas of the tools on offer.
      count: tokens of a conversation, {"messages": ..., "tools": ...}.
      clock: seconds, from any beginning.
    """

    def __init__(
        self, tools: tuple[dict, ...], count: Callable[[dict], int], clock: Callable[[], float]
    ):
        self._tools, self._count, self._clock = tools, count, clock
        self._start = clock()
        self._events: list[Event] = []
        self._messages: list[dict] = []
        self._tokens = 0
        self._step = 0

    @property
    def step(self) -> int:
        """The turn that events are now added to."""
        return self._step

    @property
    def tokens(self) -> int:
        """Tokens of the conversation, the tools' descriptions among them."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """Since the episode began."""
        return self._clock() - self._start

    @property
    def conversation(self) -> dict:
        """What the model is asked to go on with."""
        return {"messages": list(self._messages), "tools": list(self._tools)}

    @property
    def episode(self) -> Episode:
        """All events so far."""
        return Episode(tuple(self._events))

    def begin_step(self) -> None:
        """A new turn of the model."""
        self._step += 1

    def add(self, kind: type[Event], text: str, *, message: dict | None = None, **fields) -> None:
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
