"""Thoughts: opened by the prompt wherever one may ask for them, and kept apart from the answer."""

import pathlib

import pytest

import ivx
from ivx.agent.asker import ModelAsker
from ivx.assistant import Assistant
from ivx.evaluation import answers, runner
from ivx.text import thinking

OPENINGS = {
    None: "assistant\n",
    True: "assistant\n<think>\n",
    False: "assistant\n<think>\n\n</think>\n\n",
}
WAYS = pytest.mark.parametrize("enable_thinking", OPENINGS)


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
def test_thought_and_answer_come_apart(turn, thought, answer):
    assert thinking.apart(turn) == (thought, answer)


def test_a_thought_that_the_prompt_opened_belongs_to_the_turn():
    assert thinking.apart(thinking.whole_turn("Fur", True)) == ("Fur", "")
    assert thinking.apart(thinking.whole_turn("A cat.", False)) == ("", "A cat.")


class Speaker:
    """A sampler that always writes the same, and keeps the prompts."""

    def __init__(self, rule, text: str):
        self.rule, self.text, self.prompts = rule, text, []

    def generate(self, layouts, pixels, limit) -> list[list[int]]:
        for layout in layouts:
            self.prompts.append(self.rule.tokenizer.decode(layout.tokens, skip_special=False))
        return [self.rule.tokenizer.encode(self.text) for _ in layouts]


@WAYS
def test_a_question_of_the_api(rule, samples, enable_thinking):
    speaker = Speaker(rule, "Fur.</think>A cat.")
    model = Assistant(rule, speaker)
    said = ivx.generate(model, samples[0].videos[0].path, "Who?", enable_thinking=enable_thinking)
    assert said == "Fur.</think>A cat."
    assert speaker.prompts[0].endswith(f"Who?<|im_end|>\n<|im_start|>{OPENINGS[enable_thinking]}")


@WAYS
def test_questions_of_an_evaluation(rule, samples, enable_thinking):
    """What a thought says is no answer, whether it ends or is cut off."""
    for text, answer in (("1 to 2</think>4 to 6", "4 to 6"), ("1 to 2", "1 to 2")):
        speaker = Speaker(rule, text)
        found = runner.run(speaker, rule, samples[:2], 8, 2, enable_thinking).predictions
        cut = enable_thinking and "</think>" not in text
        assert [answers.final(one.text) for one in found] == ["" if cut else answer] * 2
        assert all(one.endswith(OPENINGS[enable_thinking]) for one in speaker.prompts)


@WAYS
def test_turns_of_the_agent_but_no_labels(rule, enable_thinking):
    """The turn goes into the context with the thought as the prompt opened it."""
    speaker = Speaker(rule, "Look.</think>Red.")
    asker = ModelAsker(rule, speaker, pathlib.Path(), 8, 1, enable_thinking)
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    asked = {"messages": [{"role": "user", "content": "Who?"}]}
    turn, label = asker.ask([asked | {"tools": [tool]}]), asker.ask([asked])
    assert turn == ["<think>\nLook.</think>Red." if enable_thinking else "Look.</think>Red."]
    assert label == ["Look.</think>Red."]
    assert speaker.prompts[0].endswith(OPENINGS[enable_thinking])
    assert speaker.prompts[1].endswith(OPENINGS[None])
