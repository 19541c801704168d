"""A tokenizer.json that anyone may have written is read or refused; its patterns are never run."""

import json
import pathlib
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from data_pipelines.layout import LayoutRule
from data_pipelines.sources import Sample
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.resize import PixelBudget
from ivx.text import chat_template, compact_tokenizer, tokenizer

CATASTROPHE = {"Regex": "(a|aa)+$"}
REPLACE = {"type": "Replace", "pattern": CATASTROPHE, "content": "b"}


@pytest.fixture(scope="module")
def content() -> dict:
    return json.loads(compact_tokenizer.PATH.read_text())


def in_pre_tokenizer(content: dict) -> None:
    split = {"type": "Split", "pattern": CATASTROPHE, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"]["pretokenizers"].append(split)


def in_normalizer(content: dict) -> None:
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, REPLACE]}


def in_decoder(content: dict) -> None:
    content["decoder"] = {"type": "Sequence", "decoders": [REPLACE, content["decoder"]]}


@pytest.mark.parametrize("place", [in_pre_tokenizer, in_normalizer, in_decoder])
def test_unknown_pattern_is_refused_wherever_it_stands(
    tmp_path: pathlib.Path, content: dict, place: Callable[[dict], None]
):
    changed = json.loads(json.dumps(content))
    place(changed)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"by the pattern '\(a\|aa\)\+\$', expected that of Qwen3"):
        tokenizer.load(str(path))


def test_truncation_and_padding_of_a_file_are_ignored(tmp_path: pathlib.Path, content: dict):
    backend = tokenizers.Tokenizer.from_file(str(compact_tokenizer.PATH))
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "one two three four five"
    words = tokenizer.load(str(tmp_path))
    assert words.encode(text) == tokenizer.load("compact").encode(text)


def test_text_that_ends_in_a_panic_of_the_library_is_an_invalid_message():
    backend = tokenizers.Tokenizer.from_file(str(compact_tokenizer.PATH))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("(a|aa)+$"), "isolated")
    words = tokenizer.Tokenizer(backend)
    text = "a" * 100 + "!"
    with pytest.raises(ValueError, match="101 characters cannot be tokenized"):
        words.encode(text)
    rule = LayoutRule(words, FrameRule(1.0, 2, 16), PixelBudget(4096, 65536))
    with pytest.raises(chat_template.TemplateError, match="a text of 129 characters"):
        rule.lay_out(Sample("a", ({"role": "user", "content": text},), ()), generate=True)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[" * 10_000, "null", '{"model": {"type": "BPE"}}', "\0", '{"version": 1e999}'],
)
def test_damaged_file_is_refused(tmp_path: pathlib.Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"is damaged: .*; download it again"):
        tokenizer.load(str(tmp_path))


def test_huge_file_is_refused_without_being_read(tmp_path: pathlib.Path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no space
    with pytest.raises(ValueError, match="more than 268,435,456 bytes"):
        tokenizer.load(str(tmp_path))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_file_with_any_value_is_read_or_refused(
    data: st.DataObject, content: dict, tmp_path_factory: pytest.TempPathFactory
):
    changed = json.loads(json.dumps(content))
    key = data.draw(st.sampled_from(sorted(content)))
    part = changed
    while data.draw(st.booleans()) and isinstance(part[key], dict) and part[key]:
        part = part[key]
        key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers()) | st.just({})
    )
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_text(json.dumps(changed))
    try:
        tokenizer.load.__wrapped__(str(path)).encode("Who is it?\n <|im_start|>")
    except ValueError as error:
        assert "\n" not in str(error)
