"""Thoughts: every interface can open them in the prompt, and they are separate from the answer."""

import pathlib
from typing import Any

import pytest

import ivx
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.sources import Sample
from ivx.agent.chat_model import SampledChatModel
from ivx.assistant import Assistant
from ivx.evaluation import runner
from ivx.judging import answers
from ivx.sampling.sampler import Sampler
from ivx.text import thinking

OPENINGS = {
    None: "assistant\n",
    True: "assistant\n<think>\n",
    False: "assistant\n<think>\n\n</think>\n\n",
}
all_modes = pytest.mark.parametrize("enable_thinking", OPENINGS)


@pytest.mark.parametrize(
    ("turn", "thought", "answer"),
    [
        ("A cat.", "", "A cat."),
        ("<think>\nFur.\n</think>\n\nA cat.", "Fur.", "A cat."),
        ("<think>\n\n</think>\n\nA cat.", "", "A cat."),
        ("Fur.</think>A cat.", "Fur.", "A cat."),
        ("<think>Fur", "Fur", ""),
        ("<think>Fur.</think>A cat. <think>Or", "Fur.Or", "A cat."),
    ],
)
def test_thought_and_answer_are_separated(turn: str, thought: str, answer: str):
    assert thinking.separate(turn) == (thought, answer)


def test_turn_includes_a_thought_that_the_prompt_opened():
    assert thinking.separate(thinking.whole_turn("Fur", True)) == ("Fur", "")
    assert thinking.separate(thinking.whole_turn("A cat.", False)) == ("", "A cat.")


class FixedSampler(Sampler):
    """A sampler that always returns the same text and records the prompts."""

    def __init__(self, rule: LayoutRule, text: str) -> None:
        self.rule, self.text, self.prompts = rule, text, []

    def generate(self, layouts: list[Layout], pixels: Any, limit: int) -> list[list[int]]:
        for layout in layouts:
            self.prompts.append(self.rule.tokenizer.decode(layout.tokens, skip_special=False))
        return [self.rule.tokenizer.encode(self.text) for _ in layouts]


@all_modes
def test_generate_opens_the_thought(
    rule: LayoutRule, samples: list[Sample], enable_thinking: bool | None
):
    sampler = FixedSampler(rule, "Fur.</think>A cat.")
    model = Assistant(rule, sampler)
    answer = ivx.generate(model, samples[0].videos[0].path, "Who?", enable_thinking=enable_thinking)
    assert answer == "Fur.</think>A cat."
    assert sampler.prompts[0].endswith(f"Who?<|im_end|>\n<|im_start|>{OPENINGS[enable_thinking]}")


@all_modes
def test_evaluation_ignores_thoughts(
    rule: LayoutRule, samples: list[Sample], enable_thinking: bool | None
):
    """A thought is no answer, whether it ends or is truncated."""
    for text, answer in (("1 to 2</think>4 to 6", "4 to 6"), ("1 to 2", "1 to 2")):
        sampler = FixedSampler(rule, text)
        predictions = runner.run(sampler, rule, samples[:2], 8, 2, enable_thinking).predictions
        truncated = enable_thinking and "</think>" not in text
        assert [answers.final(p.text) for p in predictions] == ["" if truncated else answer] * 2
        assert all(p.endswith(OPENINGS[enable_thinking]) for p in sampler.prompts)


@all_modes
def test_agent_opens_thoughts_in_turns_but_not_in_labels(
    rule: LayoutRule, enable_thinking: bool | None
):
    """The turn includes the opening of the thought that the prompt contains."""
    sampler = FixedSampler(rule, "Look.</think>Red.")
    asker = SampledChatModel(rule, sampler, pathlib.Path(), 8, 1, enable_thinking)
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    request = {"messages": [{"role": "user", "content": "Who?"}]}
    turn, label = asker.ask([request | {"tools": [tool]}]), asker.ask([request])
    assert turn == ["<think>\nLook.</think>Red." if enable_thinking else "Look.</think>Red."]
    assert label == ["Look.</think>Red."]
    assert sampler.prompts[0].endswith(OPENINGS[enable_thinking])
    assert sampler.prompts[1].endswith(OPENINGS[None])
