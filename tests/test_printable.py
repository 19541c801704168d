"""No control character reaches a terminal: answers, names of files, errors, command lines."""

import contextlib
import io
import unicodedata

import pytest
import tqdm
from hypothesis import given, settings
from hypothesis import strategies as st

from ivx.terminal import PrintableStream
from ivx.text.printable import printable
from tests.command import ivx, refused

CONTROLS = [
    "\x1b[2J",
    "\x00",
    "\x07",
    "\r",
    "\x7f",
    "\x9b31m",
    "\u202e",
    "\u2066",
    "\u200f",
    "\ud800",
]


def has_controls(text: str) -> bool:
    """Whether a terminal would act on the text."""
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return any(
        (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
        or unicodedata.bidirectional(c) in bidi
        for c in text
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(CONTROLS) | st.characters()).map("".join))
def test_printable_text_has_no_control_characters(text: str):
    shown = printable(text)
    assert not has_controls(shown) and printable(shown) == shown
    if not has_controls(text) and text.isascii():
        assert shown == text


def test_ordinary_text_of_every_script_is_kept():
    text = "naïve 视频 שלום مرحبا 👩\u200d🚀\n\ttab"
    assert printable(text) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*CONTROLS, "a", "\n", "\ra", "\n\x1b[A"]), max_size=8))
def test_stream_writes_no_control_character_into_text(writes: list[str]):
    out = io.StringIO()
    stream = PrintableStream(out)
    stream.write("ivx: ")
    for text in writes:
        stream.write(f"<{text}>")
    assert not has_controls(out.getvalue())


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_stream_writes_what_its_encoding_lacks_as_escapes(encoding: str):
    raw = io.BytesIO()
    stream = PrintableStream(io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    print("é", "\udcff", file=stream)
    assert raw.getvalue() == ("é" if encoding == "utf-8" else "\\xe9").encode() + b" \\udcff\n"


def test_progress_bars_and_notes_work_on_a_stream():
    plain, wrapped = io.StringIO(), io.StringIO()
    for out, stream in ((plain, plain), (wrapped, PrintableStream(wrapped))):
        options = {"file": stream, "mininterval": 0, "bar_format": "{n}"}
        with tqdm.tqdm(total=2, **options) as outer:
            for _ in tqdm.trange(2, position=1, **options):
                outer.update()
        # With one bar only: around a note, tqdm draws several in any order.
        for _ in tqdm.trange(2, **options):
            tqdm.tqdm.write("note", file=stream)
        assert out.getvalue().count("\r") > 8
    assert wrapped.getvalue() == plain.getvalue()


def test_error_about_a_strange_name_is_escaped(tmp_path):
    sentence = refused(ivx("chat", f"--video={tmp_path}/\x1b[2J\u202egp4.mp4", "--question=a"))
    assert "\\x1b[2J\\u202egp4.mp4" in sentence and not has_controls(sentence)


def test_error_of_a_command_line_that_is_no_text_is_escaped():
    sentence = refused(ivx("train", "--\udcff\x1b[31m"))
    assert "\\udcff\\x1b[31m" in sentence


def test_traceback_is_escaped():
    out = io.StringIO()
    with contextlib.redirect_stderr(PrintableStream(out)):
        try:
            raise KeyError("\x1b[2J") from ValueError("\u202e\x07")
        except KeyError:
            import traceback

            traceback.print_exc()
    assert not has_controls(out.getvalue())
