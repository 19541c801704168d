"""TimeLens, benchmarks and training set: when does an event happen?

    .json, TimeLens-Bench    {"VIDEO": {"duration": 30.9, "queries": ["..."],
                                        "spans": [[2.0, 5.5]]}}
    .jsonl, TimeLens-100K    {"source": "cosmo_cap", "video_path": "cosmo/a.mp4", "duration": 61.2,
                              "events": [{"query": "...", "span": [[2.0, 5.5]]}]}

In the first form the video is VIDEO.mp4 under media_root. In the second a span may also be
[2.0, 5.5].
"""

from typing import Any

from data_pipelines.annotation_error import VALUE, AnnotationError
from data_pipelines.formats import questions
from data_pipelines.formats.columns import get, of_each
from data_pipelines.media_files import with_suffix


def convert(
    value: Any, where: str, fields: dict[str, str], suffix: str
) -> list[dict | AnnotationError]:
    """Makes a grounding question of each event.

    Raises:
      AnnotationError: the entry has neither form.
    """
    del fields
    seconds = get(value, "duration", float, where)
    if "events" not in value:
        vid, queries = get(value, "vid", str, where), get(value, "queries", list, where)
        spans = get(value, "spans", list, where)
        if len(queries) != len(spans):
            raise AnnotationError(f"{where}: {len(queries)} queries with {len(spans)} spans", VALUE)
        pairs = zip(queries, spans, strict=True)
        url, events = with_suffix(vid, suffix), [{"query": q, "span": s} for q, s in pairs]
    else:
        url = vid = get(value, "video_path", str, where)
        events = get(value, "events", list, where)

    def question(index: int, event: Any, where: str) -> dict:
        query, spans = get(event, "query", str, where), _spans(get(event, "span", list, where))
        return questions.grounding_question(f"{vid}-{index}", url, query, spans, seconds, where)

    return of_each(events, question, where)


def _spans(value: Any) -> list:
    """A list of spans, from such a list or from a single span."""
    return value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
