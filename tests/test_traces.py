"""Oracle traces are true to their scenes, and equal what the agent's loop would write."""

import json
import re

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.synthetic import needles, traces, write
from data_pipelines.synthetic import scene as scenes
from data_pipelines.views import VideoFile, ViewConfig
from ivx.agent import context, loop
from ivx.agent.budget import Budget
from ivx.agent.chat_model import SampledChatModel
from ivx.judging import rewards
from ivx.sampling.sampler import Sampler
from ivx.text import agent_texts, chat_template, tokenizer
from ivx.text.tool_calls import parse

SEEDS = range(40)


@pytest.fixture(scope="module")
def oracle_traces() -> list[traces.Trace]:
    return [traces.needle_trace(np.random.default_rng(seed), "a.mp4") for seed in SEEDS]


def assistant_text(message: dict) -> str:
    """Renders an assistant's message as the model would write it."""
    [_, piece, _] = chat_template.render([message], [])
    return piece.text.removesuffix("<|im_end|>")


def assistant_messages(trace: traces.Trace) -> list[dict]:
    return [m for m in trace.samples[0]["messages"] if m["role"] == "assistant"]


def final_arguments(trace: traces.Trace) -> dict:
    [call] = parse(assistant_text(assistant_messages(trace)[-1])).calls
    assert call.name == "finish"
    return call.arguments


def was_hurried(trace: traces.Trace) -> bool:
    return any(m["content"] == agent_texts.LAST_STEP for m in trace.samples[0]["messages"])


def test_trace_is_a_function_of_its_seed(oracle_traces):
    assert traces.needle_trace(np.random.default_rng(0), "a.mp4") == oracle_traces[0]
    assert len({json.dumps(trace.samples[0]) for trace in oracle_traces}) == len(SEEDS)


def test_unhurried_trace_gives_the_true_answer_and_cites_frames_that_show_it(oracle_traces):
    for trace in oracle_traces:
        answer = final_arguments(trace)
        if was_hurried(trace):
            continue
        assert answer["answer"] == trace.question.answer
        results = [m for m in trace.samples[0]["messages"] if m["role"] == "tool"]
        view, text = results[-1]["content"]
        assert text["text"].startswith(answer["evidence"][0] + ":")
        start, end = view["video_url"]["span"]
        target = trace.scene.actors[0]
        assert max(start, target.start) < min(end, target.end)


def test_traces_cover_all_families_and_wrong_labels(oracle_traces):
    assert {trace.question.family for trace in oracle_traces} == set(needles.FAMILIES)
    inspected = [
        sum(
            call.name == "inspect"
            for m in assistant_messages(trace)
            for call in parse(assistant_text(m)).calls
        )
        for trace in oracle_traces
    ]
    assert set(inspected) <= {0, 1, 2} and inspected.count(2) >= 3
    assert 0 < sum(map(was_hurried, oracle_traces)) < 12


def test_overview_rarely_shows_a_needle():
    sampled = [traces.needle_trace(np.random.default_rng(seed), "a.mp4") for seed in range(120)]
    shown = ["is seen" in assistant_messages(trace)[0]["content"] for trace in sampled]
    assert 0 < sum(shown) < 20


class Oracle:
    """Replays the answers of a trace, and labels shots as its search results list them."""

    def __init__(self, trace: traces.Trace, asker: SampledChatModel):
        self._turns = [assistant_text(message) for message in assistant_messages(trace)]
        hits = re.findall(
            r"e\d+: ([\d.]+) to [\d.]+ seconds, (\w+ \w+)",
            "\n".join(str(m["content"]) for m in trace.samples[0]["messages"]).replace("\\n", "\n"),
        )
        self._labels = {float(start): label for start, label in hits}
        self.count, self.frames = asker.count, asker.frames

    def ask(self, conversations):
        if "tools" in conversations[0]:
            return [self._turns.pop(0)]
        spans = [c["messages"][0]["content"][0]["video_url"]["span"] for c in conversations]
        return [self._labels.get(span[0], "nothing") for span in spans]


def test_agent_loop_writes_the_same_trace_as_the_oracle(oracle_traces, rule, tmp_path):
    """Equal tokens cover template, texts, evidence ids, views and the last-step notice."""
    asker = SampledChatModel(rule, object.__new__(Sampler), tmp_path, limit=1, batch=1)
    for trace in oracle_traces:
        sample = trace.samples[0]
        parsed = sources.parse_sample(sample, "here", tmp_path)
        video_file = VideoFile("a.mp4", parsed.videos[0].info)
        steps = len(assistant_messages(trace)) if was_hurried(trace) else 8
        episode = loop.run(
            Oracle(trace, asker), video_file, trace.question.text, budget=Budget(steps=steps)
        )
        record = {"messages": episode.messages, "tools": list(episode.instruction.tools)}
        loop_layout, oracle_layout = (
            rule.lay_out(sources.parse_sample(s, "here", tmp_path)) for s in (record, sample)
        )
        np.testing.assert_array_equal(loop_layout.tokens, oracle_layout.tokens)
        np.testing.assert_array_equal(loop_layout.trained, oracle_layout.trained)
        for clip, expected in zip(loop_layout.clips, oracle_layout.clips, strict=True):
            np.testing.assert_array_equal(clip.indices, expected.indices)
        assert episode.answer.text == final_arguments(trace)["answer"]
        kinds = {type(event) for event in episode.events}
        assert kinds >= set(context.KINDS) - {context.Memory, context.Observation}


def test_trace_fits_into_a_thousand_tokens(oracle_traces, rule, tmp_path):
    for trace in oracle_traces:
        lengths = [
            len(rule.lay_out(sources.parse_sample(s, "x", tmp_path)).tokens) for s in trace.samples
        ]
        assert lengths[0] < 950 and max(lengths[1:]) < 90


def test_shot_labels_match_their_frames(oracle_traces, rule, tmp_path):
    """Colours are detected in the pixels of the frames that the sample shows."""
    answers = []
    for trace in oracle_traces[:6]:
        pictures = scenes.render(trace.scene)
        for record in trace.samples[1:]:
            layout = rule.lay_out(sources.parse_sample(record, "x", tmp_path))
            sampled = pictures[np.unique(layout.clips[0].indices)]
            visible = [
                colour
                for colour, value in scenes.COLOURS.items()
                if (sampled == value).all(-1).sum() > 20
            ]
            answer = record["messages"][-1]["content"]
            assert visible == ([] if answer == "nothing" else [answer.split()[0]])
            answers.append(answer)
    assert answers.count("nothing") == len(answers) / 2


def test_trace_video_is_rendered_and_read(oracle_traces, rule, tmp_path):
    trace = oracle_traces[0]
    write.encode(tmp_path / "a.mp4", scenes.render(trace.scene), trace.scene.rate)
    layout = rule.lay_out(sources.parse_sample(trace.samples[0], "here", tmp_path))
    rows, grids = layout.read_patches()
    assert len(rows) == len(grids) == len(layout.slice_sizes)
    assert ViewConfig().overview_frames / 2 == len(layout.clips[0].times)


def test_call_after_a_search_in_words_follows_its_results():
    kinds = set()
    for seed in SEEDS:
        sample = traces.search_in_words(np.random.default_rng(seed))
        *_, results, last = (m for m in sample["messages"] if m["content"] != agent_texts.LAST_STEP)
        [call] = parse(assistant_text(last)).calls
        kinds.add(call.name)
        if call.name == "inspect":
            assert call.arguments == {"evidence": "e1"}
            assert results["content"].startswith("e1: ")
        elif call.arguments["evidence"]:
            assert call.arguments["evidence"] == ["e1"]
            assert call.arguments["answer"] in results["content"].splitlines()[0]
    assert kinds == {"inspect", "finish"}


def test_search_in_words_is_short_and_trains_no_thought_about_frames():
    tokens = tokenizer.load("compact")
    for seed in SEEDS:
        sample = traces.search_in_words(np.random.default_rng(seed))
        assert sample["messages"][1]["loss"] is False
        pieces = chat_template.render(sample["messages"], [])
        assert sum(len(tokens.encode(piece.text)) for piece in pieces) <= 256


def test_step_ends_with_one_call_of_a_trace(oracle_traces):
    """Any call may be the last; the messages before it are unchanged, and the truth is the call."""
    names = set()
    for seed in SEEDS:
        trace = oracle_traces[seed % len(oracle_traces)]
        sample = traces.step(np.random.default_rng(seed), trace)
        messages, length = trace.samples[0]["messages"], len(sample["messages"])
        assert (
            sample["messages"] == messages[:length] and sample["tools"] == trace.samples[0]["tools"]
        )
        [call] = sample["messages"][-1]["tool_calls"]
        [truth] = sample["truths"]
        assert truth["format"] == "call" and json.loads(truth["answer"]) == call
        assert rewards.call(assistant_text(sample["messages"][-1]), truth) == 1
        names.add(call["name"])
    assert names == {"search_video", "inspect", "finish"}
