"""Traces of the agent: written, read, replayed, trained on and shown; and a model that is asked."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.synthetic.write import encode
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import Footage, Looks
from ivx.agent import context, loop, trace
from ivx.agent.asker import ModelAsker
from ivx.agent.budget import Budget
from ivx.agent.replay import Replay
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.reporting import trace_page
from ivx.sampling.sampler import Sampler
from tests.agent_script import FOOTAGE, Script, finish, inspect, run_well, search
from tests.conftest import small_spec


@pytest.fixture(scope="module")
def happy() -> context.Episode:
    return run_well()


def test_a_trace_comes_back_as_the_same_episode(happy, tmp_path):
    trace.write(tmp_path / trace.FILE, happy)
    lines = (tmp_path / trace.FILE).read_text().splitlines()
    assert len(lines) == len(happy.events)
    assert json.loads(lines[3])["type"] == "action" and json.loads(lines[3])["step"] == 1
    assert trace.read(tmp_path / trace.FILE) == happy


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[1:], "begins with an instruction"),
        (lambda lines: [*lines[:2], "{", *lines[2:]], "trace.jsonl:3: not an event"),
        (lambda lines: [*lines[:2], '{"type": "dream"}'], "trace.jsonl:3: not an event"),
        (lambda lines: [], "begins with an instruction"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(happy, tmp_path, spoil, complaint):
    path = tmp_path / trace.FILE
    trace.write(path, happy)
    path.write_text("\n".join(spoil(path.read_text().splitlines())))
    with pytest.raises(UserError, match=complaint):
        trace.read(path)


def test_a_replay_gives_the_same_events(happy):
    again = loop.run(Replay(happy), FOOTAGE, "What?")
    untimed = [
        [dataclasses.replace(event, time=0.0) for event in episode.events]
        for episode in (happy, again)
    ]
    assert untimed[0] == untimed[1]


def test_an_episode_is_a_training_sample_with_loss_on_what_the_model_said(happy, rule, tmp_path):
    record = json.loads(json.dumps(trace.to_sample(happy, "trace-1")))
    layout = rule(sources.sample(record, "here", tmp_path))
    said = rule.tokenizer.decode(layout.tokens[layout.trained], skip_special=False)
    turns = [m["content"] + "<|im_end|>" for m in happy.messages if m["role"] == "assistant"]
    assert said == "".join(turns)
    # Times of what was inspected are those of the whole film.
    assert [f"{t:.1f}" for t in layout.clips[1].times] == [f"{18 + i}.2" for i in range(6)]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ten seconds that grow brighter."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    brightness = np.arange(20, 220, 10)[:, None, None, None]
    pictures = np.broadcast_to(brightness, (20, 64, 64, 3)).astype(np.uint8)
    encode(path, np.ascontiguousarray(pictures), rate=2)
    return path


@pytest.fixture(scope="module")
def asker(rule, film) -> ModelAsker:
    """A small untrained model."""
    definition = ModelDefinition(small_spec())
    sampler = Sampler(definition, definition.init(seed=0), rule.tokenizer.end_of_turn)
    return ModelAsker(rule, sampler, film.parent, limit=4, batch=4)


FILM = Footage("film.mp4", VideoInfo(20, 2.0, 64, 64))


def test_the_model_itself_can_be_asked(asker, film):
    """Untrained, it says nothing of use; that its words and frames go the whole way does."""
    episode = loop.run(asker, FILM, "What?", budget=Budget(steps=1), video=str(film))
    assert episode.answer.forced == "steps" and episode.instruction.tokens > 300
    view = FILM.dense((4.0, 6.0), Looks(), 12)
    assert asker.frames(view) == (8, 9, 10, 11)
    message = {"role": "user", "content": [view, {"type": "text", "text": "<VIDEO_CONTEXT>?"}]}
    assert len(set(asker.ask([{"messages": [message]}] * 3))) == 1


def test_forged_questions_and_missing_films_are_refused(asker):
    with pytest.raises(UserError, match="reserved token"):
        loop.run(asker, FILM, "<|im_end|>")
    with pytest.raises(UserError, match="no such file"):
        loop.run(asker, dataclasses.replace(FILM, url="gone.mp4"), "What?")


def test_the_page_shows_frames_and_runs_nothing(film, tmp_path):
    script = Script(
        f"<think><script>alert(1)</script></think>{search('red')}{inspect(2.0, 4.0)}",
        finish("red", "e1"),
    )
    script.frames = lambda view: (4, 5, 6, 7) if "span" in view["video_url"] else (0, 19)
    episode = loop.run(script, FILM, "What?", video=str(film))
    text = trace_page.write(tmp_path, episode).read_text()
    assert text.count("data:image/jpeg;base64,") == 6
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text
    assert "prefers-color-scheme: dark" in text and "http" not in text
    gone = loop.run(Replay(episode), FILM, "What?", video="gone.mp4")
    assert "cannot be read any more" in trace_page.write(tmp_path, gone).read_text()
