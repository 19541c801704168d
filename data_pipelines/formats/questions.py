"""Annotations of one question about one video or image, with its answer and its truth."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.annotation_error import SPAN, TYPE, AnnotationError
from data_pipelines.formats.columns import is_span
from ivx.text.truths import CHOICE, LETTERS, OPEN

# The training prompt of TimeLens; `ivx.judging.answers.span` parses the answer.
_GROUNDING_PROMPT = (
    "Please find the visual event described by the sentence '{}', determining its starting and"
    " ending times. The format should be: 'The event happens in <start time> - <end time> seconds'."
)


def open_question(
    sample_id: str, url: str, text: str, answer: str, truth: dict, image: bool = False
) -> dict:
    """A question about a video, or about an image if `image`, which comes before its text."""
    kind, placeholder = (
        ("image_url", "<IMG_CONTEXT>") if image else ("video_url", "<VIDEO_CONTEXT>")
    )
    media_item = {"type": kind, kind: {"url": url}}
    text_item = {"type": "text", "text": placeholder + text}
    return {
        "id": sample_id,
        "messages": [
            {"role": "user", "content": [media_item, text_item]},
            {"role": "assistant", "content": answer},
        ],
        "truths": [truth],
    }


def grounding_question(
    sample_id: str, url: str, query: str, spans: Sequence, seconds: float | None, where: str
) -> dict:
    """A temporal grounding question: when does an event happen?

    An answer is judged by the first span, as in TimeLens; the truth keeps all of them as `spans`. A
    span that ends after the video, as some in Charades do, is cut to the end of the video.

    Args:
      sample_id: id of the annotation.
      url: of the video.
      query: describes the event.
      spans: one or several [start, end] in seconds.
      seconds: length of the video; None if it is unknown.
      where: file:line of the entry, for messages.

    Raises:
      AnnotationError: there is no span, or one that is malformed or lies outside the video.
    """
    if not isinstance(spans, list) or not spans:
        raise AnnotationError(f"{where}: no span of {query!r}", TYPE)
    checked = [_span(span, seconds, where) for span in spans]
    start, end = checked[0]
    answer = f"The event happens in {start:.1f} - {end:.1f} seconds."
    truth = {
        "family": "grounding",
        "format": OPEN,
        "answer": answer,
        "values": [],
        "span": checked[0],
        "spans": checked,
    }
    text = _GROUNDING_PROMPT.format(query.strip().rstrip("."))
    return open_question(sample_id, url, text, answer, truth)


def choice_question(
    sample_id: str, url: str, text: str, options: list[str], letter: str, image: bool = False
) -> dict:
    """A multiple-choice question; `options` have no letters, `letter` is that of the right one."""
    listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))
    prompt = f"{text}\n{listed}\nAnswer with the letter of the right option."
    truth = {"family": "choice", "format": CHOICE, "answer": letter, "options": options}
    return open_question(sample_id, url, prompt, letter, truth, image)


def _span(span: Any, seconds: float | None, where: str) -> list[float]:
    if not is_span(span):
        raise AnnotationError(f"{where}: the span {span!r} is not [start, end] in seconds", TYPE)
    start, end = float(span[0]), float(span[1])
    if seconds is not None:
        end = min(end, seconds)
    if not 0 <= start < end:
        reason = (
            "is empty or negative"
            if seconds is None
            else f"lies outside a video of {seconds:g} seconds"
        )
        raise AnnotationError(f"{where}: the span {span[0]} to {span[1]} {reason}", SPAN)
    return [start, end]
