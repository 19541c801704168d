"""The chat template matches those of Qwen on hundreds of conversations.

The golden file holds digests of what transformers renders (tests/make_parity.py).
"""

import json
import pathlib

import jinja2
import pytest
from jinja2 import sandbox

from ivx.hf import write
from ivx.text import chat_template
from tests.parity import conversations, peers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "chat_template.json"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def cases() -> list[conversations.Conversation]:
    return conversations.generate()


@pytest.fixture(scope="module")
def golden() -> list[str]:
    return json.loads(GOLDEN.read_text())


def render(conversation: conversations.Conversation) -> str:
    pieces = chat_template.render(
        conversation.messages,
        [VIDEO] * conversation.videos,
        conversation.generate,
        conversation.tools,
        conversation.enable_thinking,
    )
    return "".join(piece.text for piece in pieces)


def test_conversations_cover_every_kind(cases: list[conversations.Conversation]):
    roles = [[message["role"] for message in case.messages] for case in cases]
    assert len(cases) >= 300
    for kind in (
        [case for case in cases if case.tools],
        [case for case in cases if case.videos > 1],
        [case for case in cases if case.enable_thinking],
        [case for case in cases if case.enable_thinking is False],
        [case for case in cases if not case.generate],
        [names for names in roles if names.count("user") > 2],
        [names for names in roles if "tool" in names],
        [names for names in roles if "system" in names],
    ):
        assert len(kind) > 40


def test_template_matches_qwen_templates(
    cases: list[conversations.Conversation], golden: list[str]
):
    assert [peers.digest(render(case)) for case in cases] == golden


def test_exported_template_matches_qwen_templates(
    cases: list[conversations.Conversation], golden: list[str]
):
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template: jinja2.Template = environment.from_string(write.TEMPLATE.read_text())
    for case, expected in zip(cases, golden, strict=True):
        text = template.render(
            messages=conversations.as_items(case.messages),
            tools=case.tools,
            add_generation_prompt=case.generate,
            enable_thinking=case.enable_thinking,
        )
        # The processor adds the start and end tokens of a video.
        assert peers.digest(text.replace("<|video_pad|>", VIDEO)) == expected
