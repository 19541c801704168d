"""`ivx data check` and `ivx data tfds` as a user calls them, and runs that meet unusable lines."""

import json
import shutil

import pytest

from ivx import build, config
from ivx.commands import data_check
from ivx.errors import UserError
from tests.annotations import WORDS, shown
from tests.command import ivx, refused


@pytest.fixture
def spoilt(tmp_path, data_folder):
    """The synthetic set with four bad lines, and a clip that is gone."""
    folder = tmp_path / "data"
    shutil.copytree(data_folder, folder)
    (folder / "clips" / "train" / "000000.mp4").unlink()
    file = folder / "train.jsonl"
    bad = ["{", json.dumps({**WORDS, "surprise": 1}), json.dumps({"messages": shown("no place")})]
    first = file.read_text().splitlines()[1]
    file.write_text(file.read_text() + "\n".join([*bad, first]) + "\n")
    return folder


def of(folder, **data):
    """The config of a tiny run on it."""
    found = config.tiny()
    found.data.update(mixture=str(folder / "data.json"), train=("synthetic_train",), **data)
    return found


def test_a_mixture_is_counted_and_every_fault_named(spoilt, data_folder):
    lines = len((data_folder / "train.jsonl").read_text().splitlines())
    result = ivx(
        "data",
        "check",
        f"--mixture={spoilt / 'data.json'}",
        "--config=experiments/sft_short.py:tiny",
        "--json",
    )
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    train = found["data_sets"]["synthetic_train"]
    assert train["samples"] == lines - 1 and train["faults"] == 5
    assert 0 < train["tokens"]["min"] <= train["tokens"]["median"] <= train["tokens"]["max"]
    assert train["trained_tokens"]["sum"] < train["tokens"]["sum"]
    causes = {fault["cause"]: fault["where"] for fault in found["faults"]}
    file = spoilt / "train.jsonl"
    assert causes == {
        "not JSON": f"{file}:{lines + 1}",
        "unknown key": f"{file}:{lines + 2}",
        "words and media do not fit": f"{file}:{lines + 3}",
        "repeated id": f"{file}:{lines + 4}",
        "media not there": f"{file}:1",
    }
    assert f"not JSON: 1\n  {file}:{lines + 1}: not valid JSON" in result.stdout


def test_a_good_mixture_passes(data_folder, capsys):
    found = data_check.check(str(data_folder / "data.json"), (), of(data_folder))
    assert found["ok"] and found["faults"] == [] and len(found["data_sets"]) > 1
    assert "no faults" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check"], "no --mixture was given"),
        (["check", "--mixture=/none.json"], "no mixture file at /none.json"),
        (["tfds", "--out=/tmp/x", "--builder=coco"], "--builder is synthetic or internvideo3"),
        (["tfds", "--out=/tmp/x", "--builder=internvideo3", "--source=a"], "--media_root"),
        (["tfds"], "no --out was given"),
    ],
)
def test_what_cannot_be_checked_or_built_is_said_in_a_sentence(arguments, sentence):
    assert sentence in refused(ivx("data", *arguments))


def test_training_names_and_leaves_out_what_is_unusable(spoilt, capsys):
    [(_, found)] = build.samples(of(spoilt), ("synthetic_train",), training=True)
    notes = capsys.readouterr().err
    assert found and "4 unusable annotations were left out" in notes
    assert notes.count("left out /") == 4 and "surprise" in notes
    config = of(spoilt)
    assert build.plan_of(config, ("synthetic_train",), config.data.batch_packs, level=False).packs


def test_a_run_with_too_many_unusable_lines_does_not_begin(spoilt):
    with pytest.raises(UserError, match=r"4 unusable .* 3 by data.max_bad_samples.*ivx data check"):
        build.plan_of(of(spoilt, max_bad_samples=3), ("synthetic_train",), 2, level=False)


def test_workers_need_shared_memory_for_their_batches(data_folder):
    """Without room there a worker would die of a bus error in the middle of the run."""
    config = of(data_folder, workers=2)
    assert build.loader_options(config).workers == 2
    config.data.batch_packs = 10**9
    with pytest.raises(UserError, match=r"data.workers = 2 hand over .* --shm-size"):
        build.loader_options(config)
    config.data.workers = 0
    assert build.loader_options(config).workers == 0


def test_what_is_evaluated_is_whole_or_refused(spoilt):
    with pytest.raises(UserError, match="not valid JSON"):
        build.samples(of(spoilt), ("synthetic_train",))


def test_crossing_bounds_of_a_data_set_are_refused_before_anything_is_read(spoilt):
    entry = {"annotation": "train.jsonl", "video_min_frames": 99}
    (spoilt / "data.json").write_text(json.dumps({"synthetic_train": entry}))
    with pytest.raises(UserError, match="data set synthetic_train: video_min_frames = 99 exceeds"):
        build.samples(of(spoilt), ("synthetic_train",), training=True)
