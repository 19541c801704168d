"""`finish`: the answer, with the evidence that it cites.

An answer that names a span in seconds has to name one of its evidence. Where it names another, that
of what it cites last takes its place: what was looked at is known, what was written of it may be a
slip.
"""

from ivx.agent import claims
from ivx.agent.tool import Result, World
from ivx.text import agent_texts


class Finish:
    """Ends the episode; refused while it cites what does not exist."""

    name = "finish"
    schema = agent_texts.FINISH

    def call(self, arguments: dict, world: World) -> Result:
        """The answer, or why it is not taken."""
        answer, cited = arguments.get("answer"), arguments.get("evidence", [])
        if (
            not isinstance(answer, str)
            or not isinstance(cited, list)
            or not all(isinstance(name, str) for name in cited)
        ):
            return Result(agent_texts.BAD_ANSWER, refused=True)
        cited = tuple(dict.fromkeys(cited))
        unknown = [name for name in cited if name not in world.names.given]
        if unknown:
            text = agent_texts.no_such_evidence(unknown, world.names.given)
            return Result(text, refused=True, answer=answer, cited=cited)
        spans = [world.names.span(name) for name in cited]
        if not claims.supported(answer, spans):
            seen = agent_texts.seconds(spans[-1])
            return Result(agent_texts.other_times(answer), answer=seen, cited=cited, mended=True)
        return Result("", answer=answer, cited=cited)
