"""Charades-STA, and ActivityNet Captions in the same form: when does a sentence happen?

    .txt, as published         VIDEO 24.3 30.4##person turn a light on.
    .json, as in Time-R1       {"VIDEO": {"duration": 30.96, "timestamps": [[24.3, 30.4]],
                                          "sentences": ["person turn a light on."]}}

The video is VIDEO.mp4 under media_root.
"""

import re
from typing import Any

from data_pipelines.annotation_error import VALUE, AnnotationError
from data_pipelines.formats import questions
from data_pipelines.formats.columns import checked, get, of_each
from data_pipelines.media_files import with_suffix

_LINE = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*)")


def convert(
    value: Any, where: str, fields: dict[str, str], suffix: str
) -> list[dict | AnnotationError]:
    """Makes a grounding question of each sentence.

    Raises:
      AnnotationError: the entry has neither form.
    """
    del fields
    if isinstance(value, str):
        match = _LINE.fullmatch(value)
        if not match:
            raise AnnotationError(
                f"{where}: expected VIDEO start end##sentence, got {value[:80]!r}"
            )
        vid, start, end, sentence = match.groups()
        name = f"{vid}-{start}-{end}-{sentence}"
        spans = [[float(start), float(end)]]
        url = with_suffix(vid, suffix)
        return [questions.grounding_question(name, url, sentence, spans, None, where)]
    vid, seconds = get(value, "vid", str, where), get(value, "duration", float, where)
    sentences = get(value, "sentences", list, where)
    spans = get(value, "timestamps", list, where)
    if len(sentences) != len(spans):
        raise AnnotationError(
            f"{where}: {len(sentences)} sentences with {len(spans)} timestamps", VALUE
        )
    url = with_suffix(vid, suffix)

    def question(index: int, pair: tuple[Any, Any], where: str) -> dict:
        sentence = checked(pair[0], "the sentence", str, where)
        return questions.grounding_question(
            f"{vid}-{index}", url, sentence, [pair[1]], seconds, where
        )

    return of_each(zip(sentences, spans, strict=True), question, where)
