"""TFDS data sets are built and read without TensorFlow; skipped if TFDS is not installed."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import loader, plan, sources, tfds_records
from data_pipelines.media_error import MediaError
from data_pipelines.sources import statistics

tfds = pytest.importorskip("tensorflow_datasets", reason="pip install 'ivx[tfds]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory, data_folder) -> pathlib.Path:
    """The synthetic data as a TFDS data set."""
    from data_pipelines.tfds_builders import synthetic

    folder = tmp_path_factory.mktemp("tfds")
    counts = synthetic.build(data_folder, folder)
    lines = {path.stem: len(path.read_text().splitlines()) for path in data_folder.glob("*.jsonl")}
    assert counts == lines
    return folder


def read_data_set(folder: pathlib.Path, **changes) -> sources.DataSet:
    entry = {"annotation": str(folder), "tfds": "ivx_synthetic", "split": "train"} | changes
    (folder / "data.json").write_text(json.dumps({"x": entry}))
    [data_set] = sources.read_mixture(folder / "data.json", ("x",))
    return data_set


def test_records_give_the_original_samples(built, samples):
    """The order is that of TFDS, and videos are read from the records."""
    records = {sample.id: sample for sample in sources.read_samples(read_data_set(built))}
    assert records.keys() == {sample.id for sample in samples}
    for sample in samples:
        assert records[sample.id].messages == sample.messages
        assert records[sample.id].truths == sample.truths
        assert records[sample.id].videos[0].path.startswith("tfds:")


def test_pixels_from_records_equal_the_originals(built, samples, rule):
    records = {sample.id: sample for sample in sources.read_samples(read_data_set(built))}
    for sample in samples[:2]:
        original, stored = (
            rule.lay_out(copy).read_patches()[0] for copy in (sample, records[sample.id])
        )
        np.testing.assert_array_equal(np.concatenate(original), np.concatenate(stored))


def test_threads_and_worker_processes_read_the_same_batches(built, rule, shape):
    """A worker process opens a record from its address alone."""
    measured = plan.measure(sources.read_samples(read_data_set(built)), rule, shape)
    assert measured.dropped == []
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 4, 2, seed=0)
    runs = [
        list(loader.batches(packs, rule, shape, 2, 0, loader.LoaderOptions(workers, 2, 2, 0)))
        for workers in (0, 1)
    ]
    for threaded, parallel in zip(*runs, strict=True):
        assert threaded.skipped == parallel.skipped == ()
        np.testing.assert_array_equal(threaded.batch.patches, parallel.batch.patches)


def test_split_can_be_a_slice(built):
    assert len(sources.read_samples(read_data_set(built, split="train[:3]"))) == 3


def test_statistics_cover_tfds_data_sets(built, rule):
    summary = statistics.collect(read_data_set(built), rule)
    assert summary.faults == [] and summary.samples == summary.videos > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tfds": "nothing"}, "no split train of a TFDS data set nothing"),
        ({"split": "x"}, "no split x"),
    ],
)
def test_missing_data_set_or_split_is_named(built, changes, message):
    with pytest.raises(sources.AnnotationError, match=message):
        sources.read_samples(read_data_set(built, **changes))


def test_missing_file_of_a_record_is_a_media_error(built):
    with pytest.raises(MediaError, match="cannot be read"):
        tfds_records.media(f'tfds:["{built}", "ivx_synthetic", "train", 0, "other.mp4"]')


def test_internvideo3_rows_are_built_by_named_columns(tmp_path, data_folder, rule):
    """Of three rows, one is good, one has no video and one has no answer."""
    from data_pipelines.tfds_builders import internvideo3

    (tmp_path / "videos").mkdir()
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "videos" / "abc.mp4").write_bytes(clip.read_bytes())
    rows = [
        {"yt": "abc", "qas": [{"q": "What?", "a": "A dot."}, {"q": "When?", "a": "Now."}], "n": 1},
        {"yt": "gone", "qas": [{"q": "What?", "a": "A dot."}]},
        {"yt": "abc", "qas": [{"q": "What?"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = internvideo3.Columns(
        name="mine",
        annotation=str(tmp_path / "rows.jsonl"),
        media_root=str(tmp_path / "videos"),
        fields={"video": "yt", "qa": "qas", "question": "q", "answer": "a"},
    )
    splits, skipped = internvideo3.build(columns, tmp_path / "out")
    assert splits == {"train": 2} and (skipped.missing, skipped.unusable) == (1, 1)
    samples = sources.read_samples(
        read_data_set(
            tmp_path,
            annotation="out",
            tfds="ivx_internvideo3/mine",
            media_root=columns.media_root,
        )
    )
    assert sorted(sample.messages[1]["content"] for sample in samples) == ["A dot.", "Now."]
    assert all(len(rule.lay_out(sample).clips) == 1 for sample in samples)


def test_reading_does_not_import_tensorflow(built):
    """Checked in a new process that only reads."""
    code = (
        "import sys; from data_pipelines import tfds_records;"
        f"list(tfds_records.records({str(built)!r}, 'ivx_synthetic', 'train'));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    assert "tensorflow" not in sys.modules
