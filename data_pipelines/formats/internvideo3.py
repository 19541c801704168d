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
from data_pipelines.formats.columns import get, of_each
from data_pipelines.media_files import with_suffix
from ivx.text.truths import OPEN

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


def convert(
    value: Any, where: str, fields: dict[str, str], suffix: str
) -> list[dict | AnnotationError]:
    """Makes a question of each pair of question and answer.

    Raises:
      AnnotationError: a column is missing, or has another type.
    """
    check(fields, where)
    vid = get(value, fields["video"], str, where)
    pairs = get(value, fields["qa"], list, where) if "qa" in fields else [value]
    name = get(value, fields["id"], str, where) if "id" in fields else vid
    url = with_suffix(vid, suffix)
    # With one question per row, rows often share a video, so the video is not a unique id.
    named = "qa" in fields or "id" in fields

    def question(index: int, pair: Any, part: str) -> dict:
        text = get(pair, fields["question"], str, part)
        answer = get(pair, fields["answer"], str, part)
        truth = {"family": "long_video", "format": OPEN, "answer": answer, "values": []}
        sample_id = f"{name}-{index}" if named else where
        return questions.open_question(sample_id, url, text, answer, truth)

    return of_each(pairs, question, where)
