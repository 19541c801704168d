"""Annotations of one question about one file, with its answer and its truth."""

from collections.abc import Sequence

from data_pipelines.annotation_error import SPAN, TYPE, AnnotationError
from data_pipelines.formats.columns import is_number

# What TimeLens trains with; its answer is read by `ivx.evaluation.answers.span`.
_WHEN = (
    "Please find the visual event described by the sentence '{}', determining its starting and"
    " ending times. The format should be: 'The event happens in <start time> - <end time> seconds'."
)
LETTERS = "ABCDEFGHIJ"


def question(
    sample_id: str, url: str, text: str, answer: str, truth: dict, image: bool = False
) -> dict:
    """A question, the video or image before its words."""
    kind, place = ("image_url", "<IMG_CONTEXT>") if image else ("video_url", "<VIDEO_CONTEXT>")
    shown = {"type": kind, kind: {"url": url}}
    return {
        "id": sample_id,
        "messages": [
            {"role": "user", "content": [shown, {"type": "text", "text": place + text}]},
            {"role": "assistant", "content": answer},
        ],
        "truths": [truth],
    }


def when(
    sample_id: str, url: str, query: str, spans: Sequence, seconds: float | None, where: str
) -> dict:
    """A question of when something happens.

    An answer is judged by the first span, as in TimeLens; the truth keeps all as `spans`. A span
    that ends behind the video, as some of Charades do, ends with it.

    Args:
      sample_id: see there.
      url: of the video.
      query: what happens.
      spans: [start, end] in seconds, one or several.
      seconds: length of the video; None if it is not known.
      where: for messages.

    Raises:
      AnnotationError: there is no span, or one that is none or lies outside of the video.
    """
    if not isinstance(spans, list) or not spans:
        raise AnnotationError(f"{where}: no span of {query!r}", TYPE)
    found = [_span(span, seconds, where) for span in spans]
    start, end = found[0]
    answer = f"The event happens in {start:.1f} - {end:.1f} seconds."
    truth = {
        "family": "grounding",
        "format": "open",
        "answer": answer,
        "values": [],
        "span": found[0],
        "spans": found,
    }
    return question(sample_id, url, _WHEN.format(query.strip().rstrip(".")), answer, truth)


def choice(sample_id: str, url: str, text: str, options: list[str], letter: str, **more) -> dict:
    """A question with options; `options` are without letters, `letter` is that of the right one."""
    listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))
    asked = f"{text}\n{listed}\nAnswer with the letter of the right option."
    truth = {"family": "choice", "format": "choice", "answer": letter, "options": options}
    return question(sample_id, url, asked, letter, truth, **more)


def _span(span, seconds: float | None, where: str) -> list[float]:
    if not isinstance(span, (list, tuple)) or len(span) != 2 or not all(map(is_number, span)):
        raise AnnotationError(f"{where}: the span {span!r} is not [start, end] in seconds", TYPE)
    start, end = float(span[0]), float(span[1])
    if seconds is not None:
        end = min(end, seconds)
    if not 0 <= start < end:
        raise AnnotationError(
            f"{where}: the span {span[0]} to {span[1]} "
            + ("is none" if seconds is None else f"lies outside of a video of {seconds:g} seconds"),
            SPAN,
        )
    return [start, end]
