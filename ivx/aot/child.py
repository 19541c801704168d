"""Compiling in a process of its own: it has its own environment, may crash, and may be ended."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from ivx.aot import library
from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a child said, or in `refusal` the sentence of why it did not.

    Attributes:
      found: plain values.
      refusal: empty where the child did its work.
      answered: the child had its say; False where it ended without, or was ended.
    """

    found: dict
    refusal: str = ""
    answered: bool = True


def ask(module: str, question: dict, seconds: float, dump: pathlib.Path | None = None) -> Answer:
    """Runs `python -m module` with a question as JSON; it answers by `answer`.

    Args:
      module: what to run; it reads its question by `question`.
      question: plain values.
      seconds: after which it is ended.
      dump: where the compiler is to write its schedules.

    Raises:
      UserError: there is no libtpu.
    """
    surroundings = library.environment(library.find(), dump)
    with tempfile.TemporaryDirectory(prefix="ivx-compile-") as folder:
        paths = [pathlib.Path(folder) / name for name in ("question.json", "answer.json")]
        paths[0].write_text(json.dumps(question))
        try:
            ended = subprocess.run(
                [sys.executable, "-m", module, *map(str, paths)],
                env=surroundings,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            said = f"not compiled within {seconds:g} s; --timeout allows more"
            return Answer({}, said, answered=False)
        if not paths[1].exists():
            said = f"the compiler ended with {ended.returncode}: {_last(ended.stderr)}"
            return Answer({}, said, answered=False)
        found = json.loads(paths[1].read_text())
    return Answer(found, found.pop("refusal", ""))


def question() -> dict:
    """In the child: what is asked."""
    return json.loads(pathlib.Path(sys.argv[1]).read_text())


def answer(found: dict) -> None:
    """In the child: answers; a key `refusal` says in a sentence why there is nothing else."""
    pathlib.Path(sys.argv[2]).write_text(json.dumps(found))


def sentence(error: BaseException) -> str:
    """What an exception says, in one line of bearable length, the compiler's own words first."""
    text = str(error) or type(error).__name__
    found = re.search(r"(Mosaic failed to compile[^\n]*|Ran out of memory[^\n]*)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = (found[1] if found else " ".join(lines))[:400]
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"


def _last(text: str) -> str:
    """The last line of an output that means something."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("    @")]
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Error: ", line)]
    return (fatal or lines or ["it said nothing"])[-1][:400]
