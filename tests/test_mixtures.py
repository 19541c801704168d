"""Mixtures of the release: ratios, folders of annotations, overrides of a data set."""

import dataclasses
import importlib.util
import json
import os

import pytest

from data_pipelines import plan, sources
from tests.annotations import TEXT_RECORD, mixture, rendered, video_messages


@pytest.mark.parametrize(
    ("ratio", "taken"),
    [
        (1.0, [0, 1, 2, 3]),
        (0.5, [0, 1]),
        (2.0, [0, 1, 2, 3, 0, 1, 2, 3]),
        (1.6, [0, 1, 2, 3, 0, 1]),
        (0.1, []),
    ],
)
def test_sample_ratio_repeats_all_samples_and_then_the_first(ratio, taken):
    assert sources.epoch_indices(4, ratio).tolist() == taken


def test_sample_ratio_that_takes_no_sample_is_rejected(samples, rule, shape):
    measured = plan.measure(samples[:2], rule, shape)
    with pytest.raises(sources.AnnotationError, match="sample_ratio"):
        plan.make_plan([plan.Member(measured, 0.1)], shape, 2, 2, seed=0)


def test_annotation_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b", "a", "more/c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, **TEXT_RECORD}) + "\n")
    (tmp_path / "data.json").write_text(json.dumps({"x": {"annotation": "."}}))
    [member] = sources.read_mixture(tmp_path / "data.json", ("x",))
    assert [sample.id for sample in sources.read_samples(member)] == ["a", "b", "more/c"]


def test_hidden_files_of_an_annotation_folder_are_not_read(tmp_path):
    for name in ("a.jsonl", ".b.jsonl", "._a.jsonl", ".ipynb_checkpoints/a.jsonl", "c/.d/e.jsonl"):
        (tmp_path / "ann" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ann" / name).write_text(json.dumps({"id": name, **TEXT_RECORD}) + "\n")
    [member] = sources.read_mixture(mixture(tmp_path, annotation="ann"), ("x",))
    assert [sample.id for sample in sources.read_samples(member)] == ["a.jsonl"]


def test_hidden_files_of_a_remote_annotation_folder_are_not_read(tmp_path, bucket):
    for name in ("a.jsonl", ".b.jsonl"):
        bucket.pipe(f"/bucket/ann/{name}", json.dumps({"id": name, **TEXT_RECORD}).encode())
    path = mixture(tmp_path, annotation="gs://bucket/ann")
    [member] = sources.read_mixture(path, ("x",))
    assert [sample.id for sample in sources.read_samples(member)] == ["a.jsonl"]


def test_annotation_folder_that_cannot_be_listed_is_rejected(tmp_path, monkeypatch):
    """Its files would otherwise be missing without a word."""
    (tmp_path / "ann" / "locked").mkdir(parents=True)
    path = mixture(tmp_path, annotation="ann")
    (tmp_path / "ann" / "a.jsonl").write_text(json.dumps(TEXT_RECORD) + "\n")
    real = os.scandir

    def refused(folder: str) -> object:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(sources.AnnotationError, match=r"Permission denied.*locked"):
        sources.read_mixture(path, ("x",))


def test_epoch_too_large_to_list_is_rejected():
    with pytest.raises(sources.AnnotationError, match=r"makes an epoch of 1,000,000,000; at most"):
        sources.epoch_indices(10**6, 1000.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"\xff", "not UTF-8"),
        (b"{", "not valid JSON"),
        (b'{"x": {"sample_ratio": ' + b"9" * 5000 + b"}}", "not valid JSON .*4300 digits"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"' + b"n" * 300 + b'": {"annotation": "x.jsonl"}}', "cannot name a data set"),
        (b'{"\\ud800": {"annotation": "x.jsonl"}}', "half of a surrogate pair"),
        (b"[]", "expected an object of data sets"),
    ],
)
def test_unreadable_mixture_is_rejected_in_a_sentence(tmp_path, text, complaint):
    (tmp_path / "data.json").write_bytes(text)
    with pytest.raises(sources.AnnotationError, match=complaint) as error:
        names = tuple(sources.data_set_names(tmp_path / "data.json"))
        sources.read_mixture(tmp_path / "data.json", names)
    assert len(str(error.value)) < 1100 and str(error.value).isprintable()


def test_overrides_change_the_layout_of_a_data_set(tmp_path, data_folder, rule):
    """The override keys of the release: pixels, frames, frame rate, numbered videos."""
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    path = mixture(
        tmp_path,
        video_max_total_pixels=2 * 2048,
        video_max_frames=4,
        fps=4,
        enable_3d_rope=True,
        add_vision_id=True,
        max_pixels=4096,
    )
    [member] = sources.read_mixture(path, ("x",))
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": video_messages()}) + "\n")
    [sample] = sources.read_samples(member)
    [clip] = rule.lay_out(sample).clips
    assert len(clip.indices) == 4 and clip.token_shape == (1, 1)
    assert "Video 1: <" in rendered(rule, sample)
    [plain] = rule.lay_out(dataclasses.replace(sample, overrides=None)).clips
    assert plain.token_shape != (1, 1) and plain.indices.tolist() != clip.indices.tolist()
    assert rule.with_overrides(sample.overrides).image_budget.max_pixels == 4096


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"enable_3d_rope": False}, "positions always have three axes"),
        ({"fps": 0}, "fps 0; it must be a positive number"),
        ({"video_max_frames": 2.5}, "an integer of at least 1"),
        ({"add_vision_id": 1}, "true or false"),
        ({"sample_ratio": -1}, "sample_ratio"),
        ({"sample_ratio": True}, "sample_ratio"),
        ({"media_root": "https://example.com/v"}, "is not supported"),
        ({"format": "csv"}, "there are messages, charades"),
        ({"tfds": "ivx"}, "tfds and split go together"),
        ({"fields": {"video": 5}}, "fields"),
        ({"surprise": 1}, "data set x has no key surprise; expected annotation and"),
        ({"sample_ratio": 1e9}, "sample_ratio 1000000000.0; .* at most 10,000"),
        ({"sample_ratio": 10**400}, "sample_ratio 1000"),
        ({"sample_ratio": float("nan")}, "sample_ratio nan"),
        ({"sample_ratio": float("inf")}, "sample_ratio inf"),
        ({"sample_ratio": 0}, "sample_ratio 0"),
        ({"sample_ratio": "1"}, "sample_ratio 1"),
        ({"fps": 1e308}, r"fps 1e\+308; .* at most 1e\+06"),
        ({"fps": float("nan")}, "fps nan"),
        ({"video_max_frames": 10**400}, "video_max_frames 1000.* at most 1,000,000"),
        ({"max_pixels": 10**12}, "max_pixels 1000000000000; .* at most 4,294,967,296"),
        ({"min_pixels": 2**30}, "min_pixels 1073741824; .* at most 67,108,864"),
        ({"media_root": "a\0b"}, "the character NUL"),
        ({"media_root": "\ud800"}, "half of a surrogate pair"),
        ({"media_suffix": "\udcff"}, "half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
        ({"annotation": "a" * 300}, "a path of data set x cannot be read .*File name too long"),
        ({"annotation": "loop"}, "has no annotation at"),
        ({"fields": {"video": json.loads("[" * 500 + "]" * 500)}}, "more than 100 levels"),
    ],
)
def test_unsupported_mixture_entry_is_rejected(tmp_path, entry, complaint):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_mixture(mixture(tmp_path, **entry), ("x",))


def test_folder_or_annotation_file_is_no_mixture(tmp_path):
    lines = tmp_path / "mine.jsonl"
    lines.write_text("{}\n{}\n")
    with pytest.raises(sources.AnnotationError, match="which is a folder; give the file in it"):
        sources.read_mixture(tmp_path, ("x",))
    with pytest.raises(sources.AnnotationError, match=r"is an annotation file; .*names it"):
        sources.read_mixture(lines, ("x",))


def test_override_minimum_above_maximum_is_rejected(rule):
    with pytest.raises(ValueError, match="video_min_frames = 99 exceeds"):
        rule.with_overrides(sources.Overrides(video_min_frames=99))
    with pytest.raises(ValueError, match="exceeds max_pixels"):
        rule.with_overrides(sources.Overrides(min_pixels=10**9))


def test_annotation_folder_with_a_dangling_link_names_it(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("{}")
    (tmp_path / "rows" / "b.jsonl").symlink_to(tmp_path / "gone")
    path = mixture(tmp_path, annotation="rows")
    with pytest.raises(sources.AnnotationError, match=r"rows/b\.jsonl is no file"):
        sources.read_mixture(path, ("x",))


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the client is installed")
def test_remote_annotation_without_its_client_names_the_package(tmp_path):
    path = mixture(tmp_path, annotation="s3://bucket/x.jsonl")
    with pytest.raises(sources.AnnotationError, match=r"data set x needs a package .*s3fs"):
        sources.read_mixture(path, ("x",))
