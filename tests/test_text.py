"""Tokenizer and chat template: the rendered text, and which tokens are trained on."""

import pathlib

import pytest

from ivx.text import chat_template, compact_tokenizer, special_tokens, tokenizer
from ivx.text.chat_template import TemplateError


@pytest.fixture(scope="module")
def words() -> tokenizer.Tokenizer:
    return tokenizer.load("compact")


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "<12.5 seconds>",
        "视频 🎬 naïve",
        "  two  spaces\n\n\ttab",
        "<think>no</think>",
    ],
)
def test_any_text_survives_a_round_trip(words: tokenizer.Tokenizer, text: str):
    assert words.decode(words.encode(text)) == text


def test_special_tokens_are_single_ids_and_hidden_ones_can_be_skipped(words: tokenizer.Tokenizer):
    for token in special_tokens.ALL:
        assert words.encode(token) == [words.id_of(token)]
    ids = words.encode("<|im_start|>a<|video_pad|><think>b</think><|im_end|>")
    assert words.decode(ids) == "a<think>b</think>"
    assert words.decode(ids, skip_special=False).startswith("<|im_start|>a<|video_pad|>")


def test_each_digit_is_one_token(words: tokenizer.Tokenizer):
    assert len(words.encode("2026")) == 4


def test_committed_vocabulary_equals_a_new_build(tmp_path: pathlib.Path):
    compact_tokenizer.build().save(str(tmp_path / "built.json"), pretty=False)
    assert (tmp_path / "built.json").read_bytes() == compact_tokenizer.PATH.read_bytes()


def test_missing_tokenizer_is_reported():
    with pytest.raises(FileNotFoundError, match="no tokenizer at nowhere"):
        tokenizer.load("nowhere")


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "video_url", "video_url": {}},
            {"type": "text", "text": "<VIDEO_CONTEXT>Who?"},
        ],
    },
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes.", "loss": False},
]


def test_template_renders_chatml_with_times_before_slices():
    media = [chat_template.video_text([0.25, 1.25], 2)]
    text = "".join(piece.text for piece in chat_template.render(CONVERSATION, media))
    slice_text = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n<0.2 seconds>{slice_text}<1.2 seconds>{slice_text}Who?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    )


def test_only_answers_and_their_end_are_trained_on():
    pieces = chat_template.render(CONVERSATION, ["V"])
    assert [piece.text for piece in pieces if piece.trained] == ["A cat.<|im_end|>"]


def test_prompt_ends_with_an_open_turn():
    pieces = chat_template.render(CONVERSATION[:2], ["V"], generate=True)
    assert pieces[-1].text == "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("messages", "media", "error"),
    [
        ([{"role": "robot", "content": "x"}], [], "role 'robot'"),
        ([{"role": "user", "content": 5}], [], "content must be"),
        ([{"role": "user", "content": [{"type": "audio"}]}], [], "type 'audio'"),
        ([{"role": "user", "content": "<VIDEO_CONTEXT>"}], [], "without a video"),
        ([{"role": "user", "content": "no placeholder"}], ["V"], "have no <VIDEO_CONTEXT>"),
        ([{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}], [], "reserved token"),
        ([{"role": "user", "content": "<|video_pad|>"}], [], "reserved token"),
        ([{"role": "user", "content": "a\udcff"}], [], "holds half of a surrogate pair"),
        ([{"role": "assistant", "content": "a\0"}], [], "holds the character NUL"),
    ],
)
def test_invalid_messages_are_rejected(messages: list[dict], media: list[str], error: str):
    with pytest.raises(TemplateError, match=error):
        chat_template.render(messages, media)


CALLS = [{"name": "look", "arguments": {}}]
THINKING = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "<think>Fur.</think>A cat."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "<think>Look.</think>", "tool_calls": CALLS},
    {"role": "tool", "content": "a cat"},
]


@pytest.mark.parametrize(
    ("enable_thinking", "earlier", "later", "opening"),
    [
        (None, "<think>Fur.</think>A cat.", "<think>Look.</think>\n", ""),
        (True, "A cat.", "<think>\nLook.\n</think>\n\n", "<think>\n"),
        (False, "A cat.", "<think>\nLook.\n</think>\n\n", "<think>\n\n</think>\n\n"),
    ],
)
def test_prompt_opens_a_thought_and_removes_older_ones(
    enable_thinking: bool | None, earlier: str, later: str, opening: str
):
    pieces = chat_template.render(THINKING, [], generate=True, enable_thinking=enable_thinking)
    text = "".join(piece.text for piece in pieces)
    assert f"<|im_start|>assistant\n{earlier}<|im_end|>" in text
    assert f"<|im_start|>assistant\n{later}<tool_call>" in text
    assert pieces[-1].text == f"<|im_start|>assistant\n{opening}" and not pieces[-1].trained
