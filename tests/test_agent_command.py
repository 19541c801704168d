"""`ivx agent`, from flags to files."""

import json
import types

import numpy as np
import pytest

from data_pipelines.synthetic.write import encode
from experiments import sft_short
from ivx import config as configs
from ivx import workdir as workdirs
from ivx.agent import trace
from ivx.commands import agent
from ivx.errors import UserError
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.training.checkpoints import checkpoint

DEFAULTS = {
    "max_steps": 8,
    "max_frames": 64,
    "max_tokens": 16384,
    "max_seconds": 600.0,
    "max_new_tokens": 8,
    "overview_frames": 4,
    "shot_seconds": 6.0,
    "dense_fps": 2.0,
    "dense_frames": 12,
    "enable_thinking": None,
    "batch": 4,
}


def make_flags(**values) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        **{"video": "", "question": "", "out": "", "ignore_memory_forecast": False}
        | DEFAULTS
        | values
    )


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    encode(path, np.full((20, 64, 64, 3), 90, np.uint8), rate=2)
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained tiny model."""
    folder = tmp_path_factory.mktemp("agent") / "run"
    config = sft_short.get_config("scratch")
    config.data.mixture = "none.json"
    workdirs.claim(folder, config)
    params = ModelDefinition(spec.tiny()).init(seed=0)
    checkpoint.save_params(folder, params, configs.snapshot(config))
    return folder


def test_command_answers_question_and_writes_trace_and_page(workdir, film, tmp_path, capsys):
    """An untrained model makes no valid call, so its first step is its last."""
    out = tmp_path / "out"
    result = agent.run(
        make_flags(
            workdir=str(workdir), video=str(film), question="What?", out=str(out), max_steps=1
        ),
        [],
    )
    episode = trace.read(out / trace.FILE)
    assert result["forced"] == "steps" and result["steps"] == 1 and json.dumps(result)
    assert result["answer"] == episode.answer.text and result["evidence"] == []
    assert episode.instruction.video == str(film.resolve())
    assert (out / "trace.html").read_text().count("data:image/jpeg;base64,") == 4
    assert "steps: 1 at the limit of steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no --video was given"),
        ({"video": "a.mp4"}, "no --question was given"),
        ({"video": "a.mp4", "question": "?"}, "no --out was given"),
        ({"video": "a.mp4", "question": "?", "out": "out"}, "a.mp4: no such file"),
        ({"video": "a.mp4", "question": "?", "out": __file__}, "is a file; give a folder"),
    ],
)
def test_bad_input_raises_user_error(values, message):
    with pytest.raises(UserError, match=message):
        agent.run(make_flags(**values), [])
