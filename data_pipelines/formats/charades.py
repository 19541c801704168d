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
from data_pipelines.formats.columns import get

_LINE = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*)")


def convert(value: Any, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
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
        return [questions.grounding_question(name, vid + suffix, sentence, spans, None, where)]
    vid, seconds = get(value, "vid", str, where), get(value, "duration", float, where)
    sentences = get(value, "sentences", list, where)
    spans = get(value, "timestamps", list, where)
    if len(sentences) != len(spans):
        raise AnnotationError(
            f"{where}: {len(sentences)} sentences with {len(spans)} timestamps", VALUE
        )
    return [
        questions.grounding_question(
            f"{vid}-{index}", vid + suffix, str(sentence), [span], seconds, where
        )
        for index, (sentence, span) in enumerate(zip(sentences, spans, strict=True))
    ]
