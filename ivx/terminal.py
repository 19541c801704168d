"""Standard output and error that show control characters as escapes."""

import io
import re
import sys
from typing import Any

from ivx.text.printable import printable

# How a progress bar moves the cursor: a line feed or "cursor up" for each bar below or above.
_MOVES = re.compile("\n*(\x1b\\[A)*")


class PrintableStream:
    """A text stream that writes `printable` text, and otherwise is the stream that it wraps.

    Progress bars work: a line may begin with a carriage return, a write may only move the cursor.

    Args:
      stream: the stream to write to.
    """

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream = stream
        self._in_text = False  # a line has begun, and is no bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        if _MOVES.fullmatch(text):
            self._in_text = self._in_text and not text
            return self._stream.write(text)
        is_bar = text.startswith("\r") and not self._in_text
        self._in_text = not is_bar and not text.endswith("\n")
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = "\r" + printable(text[1:]) if is_bar else printable(text)
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes every line."""
        for line in lines:
            self.write(line)


def install() -> None:
    """Makes standard output and standard error of this process printable streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))
