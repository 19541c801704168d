"""Video-R1-260k: questions about videos and images whose answers a rule can judge.

    {"problem_id": 2, "problem": "...", "data_type": "video", "problem_type": "multiple choice",
     "options": ["A. ...", "B. ..."], "solution": "<answer>B</answer>", "path": "./a/b.mp4"}

in a .json array or one per line. Answers other than choices are judged by their text. This includes
free-form and regression, which Video-R1 judges by ROUGE and by distance.
"""

import re
from typing import Any

from data_pipelines.annotation_error import VALUE, AnnotationError
from data_pipelines.formats import questions
from data_pipelines.formats.columns import checked, get
from ivx.text import truths

TYPES = ("multiple choice", "numerical", "OCR", "free-form", "regression")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPTION = re.compile(r"\(?([A-J])\)?\s*[.:)]\s*(.*)", re.DOTALL)


def convert(value: Any, where: str, fields: dict[str, str], suffix: str) -> list[dict]:
    """Makes one question.

    Raises:
      AnnotationError: the entry has another form.
    """
    del fields, suffix
    text, kind = get(value, "problem", str, where), get(value, "problem_type", str, where)
    medium, url = get(value, "data_type", str, where), get(value, "path", str, where)
    solution = get(value, "solution", str, where)
    answer = (_ANSWER.findall(solution) or [solution])[-1].strip()
    if kind not in TYPES or medium not in ("video", "image"):
        raise AnnotationError(
            f"{where}: data_type {medium!r} with problem_type {kind!r}; expected video or image,"
            f" and one of {', '.join(TYPES)}",
            VALUE,
        )
    named = value.get("problem_id") is not None
    name = get(value, "problem_id", str, where) if named else where
    url, image = url.removeprefix("./"), medium == "image"
    if kind == "multiple choice":
        options = [
            _without_letter(checked(option, "an option", str, where))
            for option in get(value, "options", list, where)
        ]
        try:
            answer = truths.letter(answer, options)
        except truths.TruthError as error:
            raise AnnotationError(f"{where}: {error}", VALUE) from error
        return [questions.choice_question(name, url, text, options, answer, image)]
    truth = {
        "family": kind,
        "format": truths.OPEN,
        "answer": answer,
        "values": [],
    }
    return [questions.open_question(name, url, text, answer, truth, image)]


def _without_letter(option: str) -> str:
    match = _OPTION.fullmatch(option.strip())
    return match[2].strip() if match else option.strip()
