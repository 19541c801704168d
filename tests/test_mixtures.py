"""Mixtures of the release: ratios, folders of annotations, rules of a data set."""

import dataclasses
import json

import pytest

from data_pipelines import plan, sources
from tests.annotations import WORDS, mixture, said, shown


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
def test_a_ratio_repeats_whole_rounds_and_then_takes_the_first(ratio, taken):
    assert sources.repeats(4, ratio).tolist() == taken


def test_a_ratio_that_takes_nothing_is_an_error_not_an_endless_plan(samples, rule, shape):
    measured = plan.measure(samples[:2], rule, shape)
    with pytest.raises(sources.AnnotationError, match="sample_ratio"):
        plan.make_plan([plan.Member(measured, 0.1)], shape, 2, 2, seed=0)


def test_a_folder_of_annotations_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b", "a", "more/c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, **WORDS}) + "\n")
    (tmp_path / "data.json").write_text(json.dumps({"x": {"annotation": "."}}))
    [member] = sources.read_mixture(tmp_path / "data.json", ("x",))
    assert [sample.id for sample in sources.read_samples(member)] == ["a", "b", "more/c"]


def test_a_data_set_changes_the_rules_of_its_own_samples(tmp_path, data_folder, rule):
    """The keys of the release: pixels, frames, rate, numbers before videos."""
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
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": shown()}) + "\n")
    [sample] = sources.read_samples(member)
    [found] = rule(sample).clips
    assert len(found.indices) == 4 and found.token_shape == (1, 1)
    assert "Video 1: <" in said(rule, sample)
    [plain] = rule(dataclasses.replace(sample, overrides=None)).clips
    assert plain.token_shape != (1, 1) and plain.indices.tolist() != found.indices.tolist()
    assert rule.under(sample.overrides).image_budget.max_pixels == 4096


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"enable_3d_rope": False}, "positions have three axes"),
        ({"fps": 0}, "fps 0; it must be a positive number"),
        ({"video_max_frames": 2.5}, "whole number"),
        ({"add_vision_id": 1}, "true or false"),
        ({"sample_ratio": -1}, "sample_ratio"),
        ({"sample_ratio": True}, "sample_ratio"),
        ({"media_root": "https://example.com/v"}, "is not read"),
        ({"format": "csv"}, "there are messages, charades"),
        ({"tfds": "ivx"}, "tfds and split go together"),
        ({"fields": {"video": 5}}, "fields"),
        ({"surprise": 1}, "expected annotation and"),
    ],
)
def test_a_mixture_that_cannot_be_honoured_is_refused(tmp_path, entry, complaint):
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_mixture(mixture(tmp_path, **entry), ("x",))


def test_bounds_that_cross_are_an_error(rule):
    with pytest.raises(ValueError, match="video_min_frames = 99 exceeds"):
        rule.under(sources.Overrides(video_min_frames=99))
    with pytest.raises(ValueError, match="exceeds max_pixels"):
        rule.under(sources.Overrides(min_pixels=10**9))
