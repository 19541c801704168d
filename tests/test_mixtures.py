"""Mixtures of the release: ratios, folders of annotations, overrides of a data set."""

import dataclasses
import json

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
        ({"surprise": 1}, "expected annotation and"),
    ],
)
def test_unsupported_mixture_entry_is_rejected(tmp_path, entry, complaint):
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_mixture(mixture(tmp_path, **entry), ("x",))


def test_override_minimum_above_maximum_is_rejected(rule):
    with pytest.raises(ValueError, match="video_min_frames = 99 exceeds"):
        rule.with_overrides(sources.Overrides(video_min_frames=99))
    with pytest.raises(ValueError, match="exceeds max_pixels"):
        rule.with_overrides(sources.Overrides(min_pixels=10**9))
