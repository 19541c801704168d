r"""Printable text: control characters are shown as escapes and never reach a terminal or a page.

Answers of a model, annotations, names of files and errors may hold any character. An escape
sequence could clear the screen or rewrite earlier lines, a C1 code starts one too, and a
bidirectional override shows text in another order than it has:

    ESC [ 2 J  ->  \x1b[2J        U+202E  ->  \u202e
"""

import re

# C0 (but tab and line feed), DEL and C1; line separators; bidirectional marks and overrides; halves
# of characters, which no encoding has.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
# Characters of a message; its end, which says what to do, is never left out.
_LONGEST = 1000


def printable(text: str) -> str:
    """The text with control characters as escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def quoted(text: str, longest: int = _LONGEST) -> str:
    """The text with everything that cannot be printed written as an escape, as in \\\\x1b."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= longest:
        return text
    return f"{text[: longest - longest // 3]} ... {text[-(longest // 3) :]}"


def misencoded(text: str) -> str | None:
    """What makes a text unusable: NUL, or half of a surrogate pair; None for other text."""
    if "\0" in text:
        return "the character NUL"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair, {ascii(text[error.start])[1:-1]}"
    return None
