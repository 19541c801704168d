"""The chat template writes what those of Qwen write, on hundreds of conversations.

Compared are digests that transformers' rendering gave (tests/make_parity.py).
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


def ours(conversation: conversations.Conversation) -> str:
    pieces = chat_template.render(
        conversation.messages,
        [VIDEO] * conversation.videos,
        conversation.generate,
        conversation.tools,
        conversation.enable_thinking,
    )
    return "".join(piece.text for piece in pieces)


def test_the_conversations_are_of_every_kind(cases):
    roles = [[message["role"] for message in case.messages] for case in cases]
    assert len(cases) >= 300
    for kind in (
        [case for case in cases if case.tools],
        [case for case in cases if case.videos > 1],
        [case for case in cases if case.enable_thinking],
        [case for case in cases if case.enable_thinking is False],
        [case for case in cases if not case.generate],
        [one for one in roles if one.count("user") > 2],
        [one for one in roles if "tool" in one],
        [one for one in roles if "system" in one],
    ):
        assert len(kind) > 40


def test_what_is_written_is_what_their_templates_write(cases, golden):
    assert [peers.digest(ours(case)) for case in cases] == golden


def test_so_is_what_the_template_of_an_exported_folder_writes(cases, golden):
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template: jinja2.Template = environment.from_string(write.TEMPLATE.read_text())
    for case, wanted in zip(cases, golden, strict=True):
        text = template.render(
            messages=conversations.as_items(case.messages),
            tools=case.tools,
            add_generation_prompt=case.generate,
            enable_thinking=case.enable_thinking,
        )
        # It leaves start and end of a video to the processor.
        assert peers.digest(text.replace("<|video_pad|>", VIDEO)) == wanted
