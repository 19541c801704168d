"""InternVideo3's long-video data set (yanziang/InternVideo3_Dataset): questions by video id.

Its columns are not published, so the mixture or the builder's config names them:

    "fields": {"video": "video_id",            the id; the video is ID.mp4 under media_root
               "question": "question", "answer": "answer",
               "qa": "qa_pairs",               if a list of this name holds questions and answers
               "id": "uid"}                    if rows have ids

Answers are free text, so each truth holds only the text of the answer.
"""

from typing import Any

from data_pipelines.annotation_error import MISSING, AnnotationError
from data_pipelines.formats import questions
from data_pipelines.formats.columns import get

REQUIRED = ("video", "question", "answer")
OPTIONAL = ("qa", "id")


def check(fields: dict[str, str], where: str) -> None:
    """Checks that `fields` names the columns.

    Raises:
      AnnotationError: a required column is not named, or an unknown one is.
    """
    missing = [name for name in REQUIRED if name not in fields]
    unknown = sorted(set(fields) - {*REQUIRED, *OPTIONAL})
    if missing or unknown:
        raise AnnotationError(
            f"{where}: fields must name the columns of {', '.join(REQUIRED)} and may name those of"
            f" {', '.join(OPTIONAL)}; "
            + (f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} unknown"),
            MISSING,
        )


def convert(value: Any, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """Makes a question of each pair of question and answer.

    Raises:
      AnnotationError: a column is missing, or has another type.
    """
    check(fields, where)
    vid = get(value, fields["video"], str, where)
    pairs = get(value, fields["qa"], list, where) if "qa" in fields else [value]
    name = get(value, fields["id"], str, where) if "id" in fields else vid
    annotations = []
    for index, pair in enumerate(pairs):
        text = get(pair, fields["question"], str, where)
        answer = get(pair, fields["answer"], str, where)
        truth = {"family": "long_video", "format": "open", "answer": answer, "values": []}
        # With one question per row, rows often share a video, so the video is not a unique id.
        sample_id = f"{name}-{index}" if "qa" in fields or "id" in fields else where
        annotations.append(questions.open_question(sample_id, vid + suffix, text, answer, truth))
    return annotations
