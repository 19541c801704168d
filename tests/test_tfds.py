"""Data sets of TFDS, built and read without TensorFlow; left out where the package is missing."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import loader, plan, sources, tfds_records
from data_pipelines.media_error import MediaError
from data_pipelines.sources import census

tfds = pytest.importorskip("tensorflow_datasets", reason="pip install 'ivx[tfds]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory, data_folder) -> pathlib.Path:
    """The synthetic set as a data set of TFDS."""
    from data_pipelines.tfds_builders import synthetic

    folder = tmp_path_factory.mktemp("tfds")
    counts = synthetic.build(data_folder, folder)
    lines = {path.stem: len(path.read_text().splitlines()) for path in data_folder.glob("*.jsonl")}
    assert counts == lines
    return folder


def member(folder: pathlib.Path, **changes) -> sources.DataSet:
    entry = {"annotation": str(folder), "tfds": "ivx_synthetic", "split": "train"} | changes
    (folder / "data.json").write_text(json.dumps({"x": entry}))
    [found] = sources.read_mixture(folder / "data.json", ("x",))
    return found


def test_records_give_the_samples_of_the_files(built, samples):
    """The same conversations in TFDS's own order, with videos that are read from the records."""
    found = {sample.id: sample for sample in sources.read_samples(member(built))}
    assert found.keys() == {sample.id for sample in samples}
    for sample in samples:
        assert found[sample.id].messages == sample.messages
        assert found[sample.id].truths == sample.truths
        assert found[sample.id].videos[0].path.startswith("tfds:")


def test_pixels_come_from_the_records(built, samples, rule):
    found = {sample.id: sample for sample in sources.read_samples(member(built))}
    for sample in samples[:2]:
        here, there = (rule(one).read_patches()[0] for one in (sample, found[sample.id]))
        np.testing.assert_array_equal(np.concatenate(here), np.concatenate(there))


def test_threads_and_workers_read_the_same_batches(built, rule, shape):
    """An address is enough for a process that has nothing open yet."""
    measured = plan.measure(sources.read_samples(member(built)), rule, shape)
    assert measured.dropped == []
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 4, 2, seed=0)
    read = [
        list(loader.batches(packs, rule, shape, 2, 0, loader.LoaderOptions(workers, 2, 2, 0)))
        for workers in (0, 1)
    ]
    for one, other in zip(*read, strict=True):
        assert one.skipped == other.skipped == ()
        np.testing.assert_array_equal(one.batch.patches, other.batch.patches)


def test_a_slice_of_a_split_is_a_split(built):
    assert len(sources.read_samples(member(built, split="train[:3]"))) == 3


def test_a_mixture_of_it_is_checked_like_any(built, rule):
    found = census.take(member(built), rule)
    assert found.faults == [] and found.samples == found.videos > 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"tfds": "nothing"}, "no split train of a data set nothing"), ({"split": "x"}, "no split x")],
)
def test_what_is_not_there_is_named(built, changes, complaint):
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_samples(member(built, **changes))


def test_a_record_that_is_gone_is_a_media_error(built):
    with pytest.raises(MediaError, match="cannot be read"):
        tfds_records.media(f'tfds:["{built}", "ivx_synthetic", "train", 0, "other.mp4"]')


def test_rows_of_the_release_are_built_by_named_columns(tmp_path, data_folder, rule):
    """Three rows: one is good, one has no video, one no answer."""
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
    splits, left = internvideo3.build(columns, tmp_path / "out")
    assert splits == {"train": 2} and (left.missing, left.unusable) == (1, 1)
    found = sources.read_samples(
        member(
            tmp_path,
            annotation="out",
            tfds="ivx_internvideo3/mine",
            media_root=columns.media_root,
        )
    )
    assert sorted(sample.messages[1]["content"] for sample in found) == ["A dot.", "Now."]
    assert all(len(rule(sample).clips) == 1 for sample in found)


def test_tensorflow_is_never_imported(built):
    """In a process of its own, which builds nothing and only reads."""
    code = (
        "import sys; from data_pipelines import tfds_records;"
        f"list(tfds_records.records({str(built)!r}, 'ivx_synthetic', 'train'));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    assert "tensorflow" not in sys.modules
