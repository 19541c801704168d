"""Replays an episode: a `ChatModel` that repeats recorded turns.

It runs the loop again without the model, to test the loop or to try another loop on the same turns.
"""

from collections.abc import Sequence

from ivx.agent.context import Episode, Memory, Observation
from ivx.text.labels import NOTHING


class Replay:
    """Repeats the model's turns of an episode, and its labels of shots.

    Args:
      episode: the recorded episode.
    """

    def __init__(self, episode: Episode) -> None:
        turns = [message for message in episode.messages if message["role"] == "assistant"]
        self._turns = iter([message["content"] for message in turns])
        self._totals, total = [], 0
        for event in episode.events:
            if event.message is not None:
                total += event.tokens
                self._totals.append(total)
        self._labels, self._frames = {}, {}
        for event in episode.events:
            if isinstance(event, Memory) and not event.evidence:
                self._labels[event.span] = event.text
            if isinstance(event, Observation):
                self._frames[event.span if event.evidence else None] = event.frames

    def ask(self, conversations: Sequence[dict]) -> list[str]:
        """The next turn of the episode, or labels of shots for conversations without tools."""
        return [
            next(self._turns, "")
            if conversation.get("tools")
            else self._labels.get(_span(conversation["messages"][0]["content"][0]), NOTHING)
            for conversation in conversations
        ]

    def count(self, conversation: dict) -> int:
        """Recorded number of tokens after as many messages."""
        return self._totals[min(len(conversation["messages"]), len(self._totals)) - 1]

    def frames(self, view: dict) -> tuple[int, ...]:
        """Recorded frames of the same span."""
        return self._frames.get(_span(view), ())


def _span(view: dict) -> tuple[float, float] | None:
    span = view["video_url"].get("span")
    return tuple(span) if span else None
