"""A run resumes over the data that it was trained on, and over others only if asked to."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from data_pipelines import data_record, sources
from experiments import rl_gspo, sft_short
from ivx import from_config
from ivx.errors import UserError
from ivx.parallel.mesh import make_mesh
from ivx.training import data_changes
from ivx.training.checkpoints import restore
from tests import toy

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies


def entry(number: int) -> dict:
    """A conversation without media."""
    return {
        "id": str(number),
        "messages": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ],
    }


def write(folder: pathlib.Path, files: dict[str, list], **keys) -> pathlib.Path:
    """A mixture of one data set, "talks"; returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, rows in files.items():
        path = folder / "talks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = folder / "mixture.json"
    mixture.write_text(json.dumps({"talks": {"annotation": "talks", **keys}}))
    return mixture


def config_of(mixture: pathlib.Path, experiment=sft_short, preset="scratch"):
    config = experiment.get_config(preset)
    config.data.mixture = str(mixture)
    config.data.train, config.data.validation = ("talks",), ()
    return config


def record(mixture: pathlib.Path, names: tuple[str, ...] = ("talks",)) -> dict[str, dict]:
    with from_config.recording.recording() as records:
        from_config.data.members(config_of(mixture), names)
    # As a checkpoint stores it.
    return json.loads(json.dumps(records))


ROWS = [entry(number) for number in range(5)]
FILES = {"a.jsonl": ROWS[:3], "more/b.jsonl": ROWS[3:]}


@pytest.fixture
def before(tmp_path) -> dict[str, dict]:
    return record(write(tmp_path / "data", FILES))


def test_record_has_rows_and_samples(tmp_path, before):
    [(name, talks)] = before.items()
    assert name == "talks" and talks["usable"] == 5
    assert [file[:2] for file in talks["files"]] == [["a.jsonl", 3], ["more/b.jsonl", 2]]
    assert str(tmp_path) not in json.dumps(before)


@pytest.mark.parametrize(
    ("files", "keys", "expected"),
    [
        (FILES | {"a.jsonl": ROWS[:2]}, {}, ["a.jsonl has 2 rows instead of 3"]),
        (
            FILES | {"a.jsonl": ROWS[2::-1]},
            {},
            ["a.jsonl has 3 rows as before, but with other con"],
        ),
        (
            FILES | {"a.jsonl": [entry(7), *ROWS[1:3]]},
            {},
            ["a.jsonl has 3 rows as before, but with other content"],
        ),
        ({"a.jsonl": ROWS[:3]}, {}, ["more/b.jsonl is gone (2 rows)"]),
        (FILES | {"c.jsonl": [entry(9)]}, {}, ["c.jsonl is new (1 rows)"]),
        (
            {"b.jsonl": ROWS[:3], "a.jsonl": ROWS[3:]},
            {},
            ["is gone", "is new", "a.jsonl has 2 rows"],
        ),
        (FILES, {"sample_ratio": 2.0}, ["sample_ratio is 2.0 instead of 1.0"]),
        (FILES, {"fps": 3.0}, ["overrides is {'fps': 3.0} instead of None"]),
        (FILES | {"a.jsonl": [*ROWS[:3], {"id": 3}]}, {}, ["a.jsonl has 4 rows instead of 3"]),
    ],
)
def test_changes_are_named(tmp_path, before, files, keys, expected):
    changes = data_record.changes(before, record(write(tmp_path / "data", files, **keys)))
    assert len(changes) == len(expected)
    for change, text in zip(changes, expected, strict=True):
        assert change.startswith("talks: ") and text in change


def test_moved_renamed_and_reformatted_data_are_unchanged(tmp_path, before):
    """What counts are the values of rows, in their order."""
    assert record(write(tmp_path / "elsewhere" / "deep", FILES)) == before
    names = {"x.jsonl": ROWS[:3], "y.jsonl": ROWS[3:]}
    assert not data_record.changes(before, record(write(tmp_path / "data", names)))
    spaced = [dict(reversed(row.items())) for row in ROWS[:3]]
    mixture = write(tmp_path / "data", FILES | {"a.jsonl": spaced})
    assert not data_record.changes(before, record(mixture))


def test_data_sets_that_come_and_go_are_named(tmp_path, before):
    both = before | {"more": before["talks"]}
    assert data_record.changes(before, both) == ["data set more is new"]
    assert data_record.changes(both, before) == ["data set more is gone"]


def test_other_media_are_noticed_by_their_sizes(before):
    talks = before["talks"]
    others = [talks | {"sizes": "0"}, talks | {"sizes": "0", "usable": 4}]
    found = [data_record.changes(before, {"talks": other}) for other in others]
    assert found == [
        ["talks: samples have other sizes, as with other media"],
        ["talks: 4 samples can be used instead of 5"],
    ]


def test_data_set_that_is_read_twice_has_two_records(tmp_path):
    mixture = write(tmp_path / "data", FILES)
    assert list(record(mixture, ("talks", "talks"))) == ["talks", "talks (2)"]


def test_reading_outside_of_a_recording_records_nothing(tmp_path):
    mixture = write(tmp_path / "data", FILES)
    with from_config.recording.recording() as records:
        pass
    from_config.data.members(config_of(mixture), ("talks",))
    assert records == {}


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(values, max_size=6), st.lists(values, max_size=6))
def test_digest_differs_exactly_if_values_do(first, second):
    def digest(rows: list) -> tuple:
        digests = data_record.FileDigests(["a.jsonl"])
        for number, row in enumerate(rows):
            digests.add(f"a.jsonl:{number}", row)
        return digests.records()

    assert digest(first) == digest(json.loads(json.dumps(first)))
    assert (digest(first) == digest(second)) == (
        json.dumps(first) == json.dumps(second) or same(first, second)
    )


def same(first, second) -> bool:
    """Equal JSON values, whatever the order of keys."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/a.jsonl"], ["a.jsonl"]),
        (["gs://bucket/x/a.jsonl", "gs://bucket/x/b/c.jsonl"], ["a.jsonl", "b/c.jsonl"]),
        (["/data/aa/1.jsonl", "/data/ab/1.jsonl"], ["aa/1.jsonl", "ab/1.jsonl"]),
        ([], []),
    ],
)
def test_names_are_relative_to_shared_folder(paths, names):
    assert data_record.relative_names(paths) == names


def test_questions_of_rollouts_are_recorded(data_folder):
    """Reinforcement learning reads its data in another way."""
    config = config_of(data_folder / "data.json", rl_gspo, "tiny")
    config.data.train, config.stage.rehearse = ("synthetic_train",), ()
    config.data.workers, config.run.start = 0, ""
    mesh = make_mesh(dict.fromkeys(("replica", "fsdp", "tensor", "context"), 1), jax.devices()[:1])
    with from_config.recording.recording() as records:
        from_config.stage.make_stage(config, mesh)
    assert records["synthetic_train"]["usable"] > 0


# ------------------------------------------------------------------------------------ the loop


def train(workdir: pathlib.Path, usable: int, accept: bool = False, **overrides):
    """Runs the toy on "data" of which only the number of samples is known."""
    talks = data_record.of((), {}, usable, [np.arange(usable)])
    return toy.train(workdir, sources={"talks": talks}, accept_data_change=accept, **overrides)


def stored(workdir: pathlib.Path, step: int) -> dict:
    return json.loads((workdir / f"checkpoints/{step}/data/metadata").read_text())


def test_restart_over_changed_data_is_refused_unless_accepted(tmp_path, capsys):
    train(tmp_path, 41, steps=4)
    message = (
        "trained on until step 4: talks: 20 samples can be used instead of 41; .*--accept_data"
    )
    with pytest.raises(UserError, match=message):
        train(tmp_path, 20, steps=8)
    train(tmp_path, 20, accept=True, steps=8)
    assert "OTHER DATA from step 4 on" in capsys.readouterr().err
    change = {"step": 4, "changes": ["talks: 20 samples can be used instead of 41"]}
    assert stored(tmp_path, 8)["changes"] == [change]
    assert json.loads((tmp_path / data_changes.FILE).read_text()) == [change]
    # From here on these are the data of the run, and the change is remembered.
    train(tmp_path, 20, steps=12)
    assert stored(tmp_path, 12)["changes"] == [change]
    [sentence] = data_changes.read(tmp_path)
    assert sentence == "from step 4 on: talks: 20 samples can be used instead of 41"


def test_finished_run_needs_no_data(tmp_path):
    expected = train(tmp_path, 41, steps=4)
    assert train(tmp_path, 20, steps=4).loss == expected.loss


def test_checkpoint_of_earlier_version_resumes_with_note(tmp_path, capsys):
    train(tmp_path, 41, steps=4)
    path = tmp_path / "checkpoints/4/data/metadata"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({key: data[key] for key in ("next_batch", "fingerprints")}))
    train(tmp_path, 20, steps=8)
    assert "does not say what data" in capsys.readouterr().err
    assert stored(tmp_path, 8)["sources"]["talks"]["usable"] == 20


def test_fall_back_to_checkpoint_of_earlier_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(restore, "_PAUSES", ())
    train(tmp_path, 41, steps=4)
    train(tmp_path, 20, accept=True, steps=8)
    (tmp_path / "checkpoints/8/data/metadata").write_text("garbage")
    with pytest.raises(UserError, match="until step 4: talks: 20 samples"):
        train(tmp_path, 20, steps=12)


@pytest.mark.parametrize("text", ("[3]", "null", "[" * 100_000))
def test_damaged_list_of_changes_does_not_end_report(text, tmp_path):
    (tmp_path / data_changes.FILE).write_text(text)
    [sentence] = data_changes.read(tmp_path)
    assert "is damaged" in sentence


def test_prepared_data_are_recorded_by_their_checksums(tmp_path):
    from data_pipelines.prepared import manifest

    folder = tmp_path / "prepared" / "talks"
    folder.mkdir(parents=True)
    shard = {"file": "00000.array_record", "records": 3, "bytes": 9, "sha256": "ab"}
    content = {"shards": [shard]}
    media = {"shards": [shard | {"sha256": "cd"}]}
    (folder.parent / manifest.FILE).write_text(json.dumps({"media": media}))
    assert manifest.records(folder, content) == (
        ("talks/00000.array_record", 3, "ab"),
        ("media/00000.array_record", 3, "cd"),
    )


def test_files_of_every_reader_are_recorded(tmp_path):
    mixture = write(tmp_path, {"a.jsonl": ROWS})
    (tmp_path / "talks" / "b.json").write_text(json.dumps(ROWS))
    [data_set] = sources.read_mixture(mixture, ("talks",))
    names = []
    for name in ("a.jsonl", "b.json"):
        files = (tmp_path / "talks" / name,)
        [file] = sources.read(dataclasses.replace(data_set, annotations=files)).files
        names.append((file.name, file.rows))
    assert names == [("a.jsonl", 5), ("b.json", 5)]
