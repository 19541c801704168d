"""`finish`: the answer, with the evidence that it cites."""

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
        return Result("", answer=answer, cited=cited)
