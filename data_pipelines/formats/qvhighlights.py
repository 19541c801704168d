"""QVHighlights: when does a query happen, possibly several times?

    .jsonl  {"qid": 9769, "query": "...", "vid": "j7rJstUseKg_210.0_360.0", "duration": 150,
             "relevant_windows": [[72, 82], [90, 94]], "relevant_clip_ids": [...],
             "saliency_scores": [...]}

The video is VIDEO.mp4 under media_root; its windows count from the start of that file. The test
split has no windows and cannot be used. Saliency scores are ignored.
"""

from typing import Any

from data_pipelines.formats import questions
from data_pipelines.formats.columns import get
from data_pipelines.media_files import with_suffix


def convert(value: Any, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """Makes one grounding question.

    Raises:
      AnnotationError: the entry has another form, or no windows.
    """
    del fields
    vid, query = get(value, "vid", str, where), get(value, "query", str, where)
    windows = get(value, "relevant_windows", list, where)
    seconds = get(value, "duration", float, where)
    return [
        questions.grounding_question(
            get(value, "qid", str, where), with_suffix(vid, suffix), query, windows, seconds, where
        )
    ]
