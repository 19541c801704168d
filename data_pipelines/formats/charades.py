"""Charades-STA, and ActivityNet Captions in the same form: when does a sentence happen?

    .txt, as published             VIDEO 24.3 30.4##person turn a light on.
    .json, as Time-R1 has it       {"VIDEO": {"duration": 30.96, "timestamps": [[24.3, 30.4]],
                                              "sentences": ["person turn a light on."]}}

The video is VIDEO.mp4 under media_root.
"""

import re

from data_pipelines.annotation_error import VALUE, AnnotationError
from data_pipelines.formats import asked
from data_pipelines.formats.columns import get

_LINE = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*)")


def convert(value, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """A question for each sentence.

    Raises:
      AnnotationError: it is of neither form.
    """
    del fields
    if isinstance(value, str):
        found = _LINE.fullmatch(value)
        if not found:
            raise AnnotationError(
                f"{where}: expected VIDEO start end##sentence, got {value[:80]!r}"
            )
        vid, start, end, sentence = found.groups()
        name = f"{vid}-{start}-{end}-{sentence}"
        spans = [[float(start), float(end)]]
        return [asked.when(name, vid + suffix, sentence, spans, None, where)]
    vid, seconds = get(value, "vid", str, where), get(value, "duration", float, where)
    sentences = get(value, "sentences", list, where)
    spans = get(value, "timestamps", list, where)
    if len(sentences) != len(spans):
        raise AnnotationError(
            f"{where}: {len(sentences)} sentences with {len(spans)} timestamps", VALUE
        )
    return [
        asked.when(f"{vid}-{number}", vid + suffix, str(sentence), [span], seconds, where)
        for number, (sentence, span) in enumerate(zip(sentences, spans, strict=True))
    ]
