"""`ivx data check` and `ivx data tfds` on the command line, and runs on unusable annotations."""

import json
import shutil

import pytest

from ivx import config, from_config
from ivx.commands import data_check
from ivx.errors import UserError
from tests.annotations import TEXT_RECORD, video_messages
from tests.command import ivx, refused


@pytest.fixture
def damaged(tmp_path, data_folder):
    """The synthetic data set with four bad lines and a missing clip."""
    folder = tmp_path / "data"
    shutil.copytree(data_folder, folder)
    (folder / "clips" / "train" / "000000.mp4").unlink()
    file = folder / "train.jsonl"
    bad = [
        "{",
        json.dumps({**TEXT_RECORD, "surprise": 1}),
        json.dumps({"messages": video_messages("no place")}),
    ]
    first = file.read_text().splitlines()[1]
    file.write_text(file.read_text() + "\n".join([*bad, first]) + "\n")
    return folder


def tiny_config(folder, **data):
    """The config of a tiny run on the data set."""
    tiny = config.tiny()
    tiny.data.update(mixture=str(folder / "data.json"), train=("synthetic_train",), **data)
    return tiny


def test_check_counts_samples_and_lists_every_fault(damaged, data_folder):
    lines = len((data_folder / "train.jsonl").read_text().splitlines())
    result = ivx(
        "data",
        "check",
        f"--mixture={damaged / 'data.json'}",
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
    file = damaged / "train.jsonl"
    assert causes == {
        "not JSON": f"{file}:{lines + 1}",
        "unknown key": f"{file}:{lines + 2}",
        "words and media do not fit": f"{file}:{lines + 3}",
        "repeated id": f"{file}:{lines + 4}",
        "media not there": f"{file}:1",
    }
    assert f"not JSON: 1\n  {file}:{lines + 1}: not valid JSON" in result.stdout


def test_check_passes_a_good_mixture(data_folder, capsys):
    found = data_check.check(str(data_folder / "data.json"), (), tiny_config(data_folder))
    assert found["ok"] and found["faults"] == [] and len(found["data_sets"]) > 1
    assert "no faults" in capsys.readouterr().out


def test_check_names_samples_that_training_leaves_out(data_folder, capsys):
    narrow = tiny_config(data_folder, slice_block=4, pack_patches=64)
    found = data_check.check(str(data_folder / "data.json"), ("synthetic_train",), narrow)
    train = found["data_sets"]["synthetic_train"]
    assert found["ok"] and train["too_long"] == 0 and train["left_out"] == train["samples"] > 0
    printed = capsys.readouterr().out
    assert "left out, since they fit into no pack of the config: " in printed
    assert printed.count("patches in blocks of 4 (data.slice_block)") == train["left_out"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check"], "no --mixture was given"),
        (["check", "--mixture=/none.json"], "no mixture file at /none.json"),
        (["check", "mine.json"], "ivx data check does not understand 'mine.json'"),
        (["tfds", "--out=/tmp/x", "--builder=coco"], "--builder is synthetic or internvideo3"),
        (["tfds", "--out=/tmp/x", "--builder=internvideo3", "--source=a"], "--media_root"),
        (["tfds"], "no --out was given"),
    ],
)
def test_bad_arguments_are_rejected_in_one_sentence(arguments, sentence):
    assert sentence in refused(ivx("data", *arguments))


@pytest.mark.parametrize(
    ("mixture", "sentence"),
    [
        ("{}", "names no data set"),
        ('{"mine": {"annotation": "empty.jsonl"}}', "data set mine has no sample"),
    ],
)
def test_nothing_to_check_is_rejected(data_folder, tmp_path, mixture, sentence):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "mixture.json").write_text(mixture)
    with pytest.raises(UserError, match=sentence):
        data_check.check(str(tmp_path / "mixture.json"), (), tiny_config(data_folder))


def test_training_skips_and_logs_unusable_annotations(damaged, capsys):
    [(_, found)] = from_config.data.samples(
        tiny_config(damaged), ("synthetic_train",), training=True
    )
    notes = capsys.readouterr().err
    assert found and "skipped 4 unusable annotations" in notes
    assert notes.count("skipped /") == 4 and "surprise" in notes
    config = tiny_config(damaged)
    assert from_config.data.plan_of(
        config, ("synthetic_train",), config.data.batch_packs, level=False
    ).packs


def test_training_rejects_more_than_max_bad_samples(damaged):
    with pytest.raises(
        UserError, match=r"4 unusable .* data.max_bad_samples allows 3; .*ivx data check"
    ):
        from_config.data.plan_of(
            tiny_config(damaged, max_bad_samples=3), ("synthetic_train",), 2, level=False
        )


def test_workers_need_shared_memory_for_their_batches(data_folder):
    """Without enough shared memory, a worker would die of a bus error during the run."""
    config = tiny_config(data_folder, workers=2)
    assert from_config.data.loader_options(config).workers == 2
    config.data.batch_packs = 10**9
    with pytest.raises(UserError, match=r"data.workers = 2 needs .* --shm-size"):
        from_config.data.loader_options(config)
    config.data.workers = 0
    assert from_config.data.loader_options(config).workers == 0


def test_evaluation_rejects_any_unusable_annotation(damaged):
    with pytest.raises(UserError, match="not valid JSON"):
        from_config.data.samples(tiny_config(damaged), ("synthetic_train",))


def test_minimum_above_maximum_is_rejected_before_samples_are_read(damaged):
    entry = {"annotation": "train.jsonl", "video_min_frames": 99}
    (damaged / "data.json").write_text(json.dumps({"synthetic_train": entry}))
    with pytest.raises(UserError, match="data set synthetic_train: video_min_frames = 99 exceeds"):
        from_config.data.samples(tiny_config(damaged), ("synthetic_train",), training=True)
