"""Compilation in a child process, which has its own environment, may crash, and may time out."""

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
    """The answer of a child process.

    Attributes:
      found: its result, plain values.
      refusal: one sentence on why there is no result; empty on success.
      answered: whether the child answered; False if it crashed or timed out.
    """

    found: dict
    refusal: str = ""
    answered: bool = True


def ask(module: str, question: dict, seconds: float, dump: pathlib.Path | None = None) -> Answer:
    """Runs `python -m module` in a child process.

    Args:
      module: the module; it reads its question with `question` and answers with `answer`.
      question: plain values, sent as JSON.
      seconds: time limit.
      dump: folder for the compiler's schedules.

    Raises:
      UserError: libtpu is not found.
    """
    environment = library.environment(library.find(), dump)
    with tempfile.TemporaryDirectory(prefix="ivx-compile-") as folder:
        paths = [pathlib.Path(folder) / name for name in ("question.json", "answer.json")]
        paths[0].write_text(json.dumps(question))
        try:
            process = subprocess.run(
                [sys.executable, "-m", module, *map(str, paths)],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            refusal = f"not compiled within {seconds:g} s; raise --timeout"
            return Answer({}, refusal, answered=False)
        if not paths[1].exists():
            refusal = f"the compiler exited with {process.returncode}: {_last_line(process.stderr)}"
            return Answer({}, refusal, answered=False)
        result = json.loads(paths[1].read_text())
    return Answer(result, result.pop("refusal", ""))


def question() -> dict:
    """The question; call this in the child."""
    return json.loads(pathlib.Path(sys.argv[1]).read_text())


def answer(result: dict) -> None:
    """Sends the answer; call this in the child.

    Args:
      result: plain values; a key `refusal` holds the sentence on why there is no result.
    """
    pathlib.Path(sys.argv[2]).write_text(json.dumps(result))


def sentence(error: BaseException) -> str:
    """An exception in one line of at most 400 characters, the compiler's message first."""
    text = str(error) or type(error).__name__
    match = re.search(r"(Mosaic failed to compile[^\n]*|Ran out of memory[^\n]*)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = (match[1] if match else " ".join(lines))[:400]
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"


def _last_line(text: str) -> str:
    """The last line of an output that is not a stack frame; a fatal error takes precedence."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("    @")]
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Error: ", line)]
    return (fatal or lines or ["no output"])[-1][:400]
