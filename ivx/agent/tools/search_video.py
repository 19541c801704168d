"""`search_video`: words in, labelled spans out; the first call has the model write the labels."""

from ivx.agent import index
from ivx.agent.tool import Evidence, Result, World
from ivx.text import agent_texts
from ivx.text.labels import search


class SearchVideo:
    """Finds labels that share words with a query; the empty query finds all."""

    name = "search_video"
    schema = agent_texts.SEARCH_VIDEO

    def call(self, arguments: dict, world: World) -> Result:
        """Spans with their labels, each an evidence to inspect."""
        query = arguments.get("query", "")
        if not isinstance(query, str):
            return Result(agent_texts.BAD_QUERY, refused=True)
        written = ()
        if world.index is None:
            world.index = written = index.write(world.asker, world.footage, world.looks)
        found = search(world.index, query, agent_texts.MOST_HITS)
        evidence = tuple(
            Evidence(world.names.name(label), label.span, label.text) for label in found
        )
        text = agent_texts.hits(found, [one.id for one in evidence])
        return Result(text, evidence=evidence, written=written)
