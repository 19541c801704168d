"""`finish`: the answer, with the evidence that it cites.

A span in seconds in the answer must overlap the cited evidence. Otherwise the answer is replaced by
the span of the last cited evidence: the inspected span is known, while the written one may be a
mistake.
"""

from ivx.agent import evidence_check
from ivx.agent.tool import Result, World
from ivx.text import agent_texts


class Finish:
    """Ends the episode; refused if it cites unknown evidence."""

    name = "finish"
    schema = agent_texts.FINISH

    def call(self, arguments: dict, world: World) -> Result:
        """The answer, or the reason for refusing it."""
        answer, cited = arguments.get("answer"), arguments.get("evidence", [])
        if (
            not isinstance(answer, str)
            or not isinstance(cited, list)
            or not all(isinstance(name, str) for name in cited)
        ):
            return Result(agent_texts.BAD_ANSWER, refused=True)
        cited = tuple(dict.fromkeys(cited))
        unknown = [name for name in cited if name not in world.names.assigned]
        if unknown:
            text = agent_texts.no_such_evidence(unknown, world.names.assigned)
            return Result(text, refused=True, answer=answer, cited=cited)
        spans = [world.names.span(name) for name in cited]
        if not evidence_check.supported(answer, spans):
            span = agent_texts.seconds(spans[-1])
            text = agent_texts.other_times(answer)
            return Result(text, answer=span, cited=cited, corrected=True)
        return Result("", answer=answer, cited=cited)
