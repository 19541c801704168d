"""QVHighlights: when does a query happen, perhaps several times?

    .jsonl  {"qid": 9769, "query": "...", "vid": "j7rJstUseKg_210.0_360.0", "duration": 150,
             "relevant_windows": [[72, 82], [90, 94]], "relevant_clip_ids": [...],
             "saliency_scores": [...]}

The video is VIDEO.mp4 under media_root; its windows count from its own start. The test split has no
windows, and so cannot be used. Saliency is not asked for.
"""

from data_pipelines.formats import asked
from data_pipelines.formats.columns import get


def convert(value, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """One question.

    Raises:
      AnnotationError: it is of another form, or has no windows.
    """
    del fields
    vid, query = get(value, "vid", str, where), get(value, "query", str, where)
    windows = get(value, "relevant_windows", list, where)
    seconds = get(value, "duration", float, where)
    return [asked.when(get(value, "qid", str, where), vid + suffix, query, windows, seconds, where)]
