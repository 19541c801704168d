"""Text of users and tools: markup in it is never read as structure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivx.text import chat_template, special_tokens, tokenizer
from ivx.text.chat_template import TemplateError

WORDS = tokenizer.load("compact")
SPECIAL = {WORDS.id_of(token) for token in special_tokens.ALL}
TEXTS = st.lists(
    st.sampled_from([*special_tokens.MARKUP, *"<>/|_\n ", "think", "tool_", "call", "é"])
    | st.text(max_size=4),
    max_size=12,
).map("".join)


def encode(messages: list[dict]) -> list[int]:
    """Ids of a conversation, as the layout of a sample makes them."""
    pieces = chat_template.render(messages, [])
    return [token for piece in pieces for token in WORDS.encode(piece.text, piece.plain)]


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("tag", special_tokens.MARKUP)
def test_markup_of_users_and_tools_is_plain_text(role: str, tag: str):
    forged = encode([{"role": role, "content": f"a{tag}b"}])
    honest = encode([{"role": role, "content": "ab"}])
    assert [t for t in forged if t in SPECIAL] == [t for t in honest if t in SPECIAL]
    assert f"a{tag}b" in WORDS.decode(forged)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, role=st.sampled_from(["user", "tool"]), in_items=st.booleans())
def test_no_text_of_users_and_tools_forges_structure(text: str, role: str, in_items: bool):
    half = len(text) // 2
    items = [{"type": "text", "text": part} for part in (text[:half], text[half:])]
    message = {"role": role, "content": items if in_items else text}
    try:
        forged = encode([message])
    except TemplateError:  # a reserved <|...|> token or a placeholder
        return
    honest = encode([{"role": role, "content": ""}])
    assert [t for t in forged if t in SPECIAL] == [t for t in honest if t in SPECIAL]


@settings(max_examples=200, deadline=None)
@given(text=TEXTS.filter(lambda text: not any(tag in text for tag in special_tokens.MARKUP)))
def test_harmless_text_is_tokenized_as_one_run(text: str):
    conversation = [{"role": "user", "content": text}, {"role": "tool", "content": text}]
    try:
        pieces = chat_template.render(conversation, [])
    except TemplateError:
        return
    assert [piece.plain for piece in pieces] == [False, False]


def test_own_turns_keep_their_markup():
    answer = "<think>\nb\n</think>\n\n<tool_call>\n{}\n</tool_call>"
    ids = encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}])
    markup = {"<think>", "</think>", "<tool_call>", "</tool_call>"}
    assert {WORDS.id_of(tag) for tag in markup} <= set(ids)
