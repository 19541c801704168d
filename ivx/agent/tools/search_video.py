"""`search_video`: finds labelled spans by words; the first call has the model write the labels."""

from ivx.agent import index
from ivx.agent.tool import Evidence, Result, World
from ivx.text import agent_texts
from ivx.text.labels import search


class SearchVideo:
    """Finds labels that share words with a query; an empty query returns all."""

    name = "search_video"
    schema = agent_texts.SEARCH_VIDEO

    def call(self, arguments: dict, world: World) -> Result:
        """Spans with their labels, each as evidence that can be inspected."""
        query = arguments.get("query", "")
        if not isinstance(query, str):
            return Result(agent_texts.BAD_QUERY, refused=True)
        written = ()
        if world.index is None:
            world.index = written = index.write(world.model, world.video_file, world.view_config)
        labels = search(world.index, query, agent_texts.MOST_HITS)
        evidence = tuple(
            Evidence(world.names.name(label), label.span, label.text) for label in labels
        )
        text = agent_texts.hits(labels, [item.id for item in evidence])
        return Result(text, evidence=evidence, written=written)
