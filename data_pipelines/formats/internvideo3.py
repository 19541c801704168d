"""InternVideo3's long-video data set (yanziang/InternVideo3_Dataset): questions by video id.

Its columns are not published, so the mixture, or the builder's config, names them:

    "fields": {"video": "video_id",            the id; the video is ID.mp4 under media_root
               "question": "question", "answer": "answer",
               "qa": "qa_pairs",               if questions and answers are in a list of this name
               "id": "uid"}                    if rows have ids of their own

Answers are words without a rule; their truths hold the words alone.
"""

from data_pipelines.annotation_error import MISSING, AnnotationError
from data_pipelines.formats import asked
from data_pipelines.formats.columns import get

NEEDED = ("video", "question", "answer")
OPTIONAL = ("qa", "id")


def check(fields: dict[str, str], where: str) -> None:
    """Makes sure that the columns are named.

    Raises:
      AnnotationError: one is not, or there are others.
    """
    missing = [name for name in NEEDED if name not in fields]
    unknown = sorted(set(fields) - {*NEEDED, *OPTIONAL})
    if missing or unknown:
        raise AnnotationError(
            f"{where}: fields must name the columns of {', '.join(NEEDED)} and may name those of"
            f" {', '.join(OPTIONAL)}; "
            + (f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} unknown"),
            MISSING,
        )


def convert(value, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """A question for each pair of question and answer of a row.

    Raises:
      AnnotationError: a column is missing or of another kind.
    """
    check(fields, where)
    vid = get(value, fields["video"], str, where)
    pairs = get(value, fields["qa"], list, where) if "qa" in fields else [value]
    name = get(value, fields["id"], str, where) if "id" in fields else vid
    found = []
    for number, pair in enumerate(pairs):
        text = get(pair, fields["question"], str, where)
        answer = get(pair, fields["answer"], str, where)
        truth = {"family": "long_video", "format": "open", "answer": answer, "values": []}
        # Rows of one question often share their video, so that it is no id.
        key = f"{name}-{number}" if "qa" in fields or "id" in fields else where
        found.append(asked.question(key, vid + suffix, text, answer, truth))
    return found
