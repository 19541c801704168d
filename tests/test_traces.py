"""Traces of the oracle: what they show is true, and the agent's own loop would write the same."""

import json
import re

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.synthetic import needles, traces, write
from data_pipelines.synthetic import scene as scenes
from data_pipelines.views import Footage, Looks
from ivx.agent import context, loop
from ivx.agent.asker import ModelAsker
from ivx.agent.budget import Budget
from ivx.stages import rewards
from ivx.text import agent_texts, chat_template, tokenizer
from ivx.text.tool_calls import parse

SEEDS = range(40)


@pytest.fixture(scope="module")
def invented() -> list[traces.Trace]:
    return [traces.needle_trace(np.random.default_rng(seed), "a.mp4") for seed in SEEDS]


def said(message: dict) -> str:
    """An assistant's message as the model would write it."""
    [_, piece, _] = chat_template.render([message], [])
    return piece.text.removesuffix("<|im_end|>")


def assistant(trace: traces.Trace) -> list[dict]:
    return [m for m in trace.samples[0]["messages"] if m["role"] == "assistant"]


def final(trace: traces.Trace) -> dict:
    [call] = parse(said(assistant(trace)[-1])).calls
    assert call.name == "finish"
    return call.arguments


def was_hurried(trace: traces.Trace) -> bool:
    return any(m["content"] == agent_texts.LAST_STEP for m in trace.samples[0]["messages"])


def test_a_trace_is_a_function_of_its_seed(invented):
    assert traces.needle_trace(np.random.default_rng(0), "a.mp4") == invented[0]
    assert len({json.dumps(trace.samples[0]) for trace in invented}) == len(SEEDS)


def test_whoever_has_the_steps_gives_the_true_answer_and_cites_frames_that_show_it(invented):
    for trace in invented:
        answer = final(trace)
        if was_hurried(trace):
            continue
        assert answer["answer"] == trace.question.answer
        results = [m for m in trace.samples[0]["messages"] if m["role"] == "tool"]
        view, text = results[-1]["content"]
        assert text["text"].startswith(answer["evidence"][0] + ":")
        start, end = view["video_url"]["span"]
        sought = trace.scene.actors[0]
        assert max(start, sought.start) < min(end, sought.end)


def test_every_question_is_asked_and_labels_are_often_wrong(invented):
    assert {trace.question.family for trace in invented} == set(needles.FAMILIES)
    inspected = [
        sum(call.name == "inspect" for m in assistant(trace) for call in parse(said(m)).calls)
        for trace in invented
    ]
    assert set(inspected) <= {0, 1, 2} and inspected.count(2) >= 3
    assert 0 < sum(map(was_hurried, invented)) < 12


def test_the_overview_seldom_meets_what_is_asked_for():
    many = [traces.needle_trace(np.random.default_rng(seed), "a.mp4") for seed in range(120)]
    met = ["is seen" in assistant(trace)[0]["content"] for trace in many]
    assert 0 < sum(met) < 20


class Oracle:
    """Says what a trace says, and labels shots so that its searches find what they found."""

    def __init__(self, trace: traces.Trace, asker: ModelAsker):
        self._turns = [said(message) for message in assistant(trace)]
        found = re.findall(
            r"e\d+: ([\d.]+) to [\d.]+ seconds, (\w+ \w+)",
            "\n".join(str(m["content"]) for m in trace.samples[0]["messages"]).replace("\\n", "\n"),
        )
        self._labels = {float(start): label for start, label in found}
        self.count, self.frames = asker.count, asker.frames

    def ask(self, conversations):
        if "tools" in conversations[0]:
            return [self._turns.pop(0)]
        spans = [c["messages"][0]["content"][0]["video_url"]["span"] for c in conversations]
        return [self._labels.get(span[0], "nothing") for span in spans]


def test_the_loop_writes_the_trace_that_the_oracle_wrote(invented, rule, tmp_path):
    """Token by token: template, texts, evidence ids, views and the last step's announcement."""
    asker = ModelAsker(rule, None, tmp_path, limit=1, batch=1)
    for trace in invented:
        sample = trace.samples[0]
        record = sources.sample(sample, "here", tmp_path)
        footage = Footage("a.mp4", record.videos[0].info)
        steps = len(assistant(trace)) if was_hurried(trace) else 8
        episode = loop.run(
            Oracle(trace, asker), footage, trace.question.text, budget=Budget(steps=steps)
        )
        ours = {"messages": episode.messages, "tools": list(episode.instruction.tools)}
        mine, theirs = (rule(sources.sample(s, "here", tmp_path)) for s in (ours, sample))
        np.testing.assert_array_equal(mine.tokens, theirs.tokens)
        np.testing.assert_array_equal(mine.trained, theirs.trained)
        for one, other in zip(mine.clips, theirs.clips, strict=True):
            np.testing.assert_array_equal(one.indices, other.indices)
        assert episode.answer.text == final(trace)["answer"]
        kinds = {type(event) for event in episode.events}
        assert kinds >= set(context.KINDS) - {context.Memory, context.Observation}


def test_a_trace_fits_into_a_thousand_tokens(invented, rule, tmp_path):
    for trace in invented:
        lengths = [len(rule(sources.sample(s, "x", tmp_path)).tokens) for s in trace.samples]
        assert lengths[0] < 950 and max(lengths[1:]) < 90


def test_labels_of_shots_are_what_their_frames_show(invented, rule, tmp_path):
    """Read off the pixels: the colour's area in the very frames that the sample shows."""
    answers = []
    for trace in invented[:6]:
        pictures = scenes.render(trace.scene)
        for record in trace.samples[1:]:
            layout = rule(sources.sample(record, "x", tmp_path))
            shown = pictures[np.unique(layout.clips[0].indices)]
            seen = [
                colour
                for colour, value in scenes.COLOURS.items()
                if (shown == value).all(-1).sum() > 20
            ]
            answer = record["messages"][-1]["content"]
            assert seen == ([] if answer == "nothing" else [answer.split()[0]])
            answers.append(answer)
    assert answers.count("nothing") == len(answers) / 2


def test_a_trace_is_drawn_and_read_as_other_samples_are(invented, rule, tmp_path):
    trace = invented[0]
    write.encode(tmp_path / "a.mp4", scenes.render(trace.scene), trace.scene.rate)
    layout = rule(sources.sample(trace.samples[0], "here", tmp_path))
    rows, grids = layout.read_patches()
    assert len(rows) == len(grids) == len(layout.slice_sizes)
    assert Looks().overview_frames / 2 == len(layout.clips[0].times)


def test_what_follows_a_search_in_words_is_what_its_results_say():
    kinds = set()
    for seed in SEEDS:
        sample = traces.search_in_words(np.random.default_rng(seed))
        *_, results, last = (m for m in sample["messages"] if m["content"] != agent_texts.LAST_STEP)
        [call] = parse(said(last)).calls
        kinds.add(call.name)
        if call.name == "inspect":
            assert call.arguments == {"evidence": "e1"}
            assert results["content"].startswith("e1: ")
        elif call.arguments["evidence"]:
            assert call.arguments["evidence"] == ["e1"]
            assert call.arguments["answer"] in results["content"].splitlines()[0]
    assert kinds == {"inspect", "finish"}


def test_a_search_in_words_is_short_and_asks_for_no_thought_about_frames():
    tokens = tokenizer.load("compact")
    for seed in SEEDS:
        sample = traces.search_in_words(np.random.default_rng(seed))
        assert sample["messages"][1]["loss"] is False
        pieces = chat_template.render(sample["messages"], [])
        assert sum(len(tokens.encode(piece.text)) for piece in pieces) <= 256


def test_a_step_asks_for_one_turn_of_a_trace(invented):
    """Every turn may be asked for; the context before it is that of the trace, and the truth is the
    call that follows."""
    asked = set()
    for seed in SEEDS:
        trace = invented[seed % len(invented)]
        found = traces.step(np.random.default_rng(seed), trace)
        whole, length = trace.samples[0]["messages"], len(found["messages"])
        assert found["messages"] == whole[:length] and found["tools"] == trace.samples[0]["tools"]
        [call] = found["messages"][-1]["tool_calls"]
        [truth] = found["truths"]
        assert truth["format"] == "call" and json.loads(truth["answer"]) == call
        assert rewards.call(said(found["messages"][-1]), truth) == 1
        asked.add(call["name"])
    assert asked == {"search_video", "inspect", "finish"}
