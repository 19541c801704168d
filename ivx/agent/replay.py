"""Replays an episode: an asker that says again what was said, so that the loop can be run again
without the model, for a test of the loop or to see what another loop would have made of it.
"""

from collections.abc import Sequence

from ivx.agent.context import Episode, Memory, Observation
from ivx.text.labels import NOTHING


class Replay:
    """Says what the model of an episode said, turn after turn, and labels shots as it did.

    Args:
      episode: what is replayed.
    """

    def __init__(self, episode: Episode):
        said = [message for message in episode.messages if message["role"] == "assistant"]
        self._turns = iter([message["content"] for message in said])
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
        """The next turn of the episode, or labels where no tools are on offer."""
        return [
            next(self._turns, "")
            if conversation.get("tools")
            else self._labels.get(_span(conversation["messages"][0]["content"][0]), NOTHING)
            for conversation in conversations
        ]

    def count(self, conversation: dict) -> int:
        """Tokens after as many messages as there then were."""
        return self._totals[min(len(conversation["messages"]), len(self._totals)) - 1]

    def frames(self, view: dict) -> tuple[int, ...]:
        """Frames that were shown of the same span."""
        return self._frames.get(_span(view), ())


def _span(view: dict) -> tuple[float, float] | None:
    span = view["video_url"].get("span")
    return tuple(span) if span else None
