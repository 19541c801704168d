"""Synthetic data: answers are visible in the frames, and cannot be guessed from text."""

import pathlib

import numpy as np
import pytest

from data_pipelines.synthetic import families, presets, scene, write
from ivx.evaluation import scoring
from ivx.evaluation.text_only import TextOnlyModel

# The families of training, and the long ones.
SHARES = presets.PRESETS["tiny"]["train"].shares | {"long_grounding": 0.1, "long_needle": 0.1}


def annotate(name: str, count: int, style: str = "both", thinking: float = 0.0):
    """Returns the samples of a split without rendering its clips."""
    from data_pipelines.sources import Sample

    split = presets.Split(count, SHARES, style, dict.fromkeys(SHARES, 0.2), thinking)
    samples = []
    for job in write.make_jobs(pathlib.Path("unused"), name, split, seed=0):
        for record in write.annotate(job).samples:
            samples.append(
                Sample(
                    record["id"],
                    tuple(record["messages"]),
                    (),
                    tuple(record["truths"]),
                )
            )
    return samples


@pytest.fixture(scope="module")
def baseline() -> list[scoring.Row]:
    """Scores on 3,000 test clips of a model fitted to the text of 6,000 training clips."""
    model = TextOnlyModel().fit(annotate("train", 6000, "conversation"))
    return scoring.table(model.predict(annotate("test", 3000)))


def test_text_only_model_scores_at_chance(baseline):
    """Chance lies in the 95 % interval of its score, widened for 15 comparisons."""
    assert len(baseline) == 15
    for row in baseline:
        half = (row.high - row.low) / 2 * 1.5
        middle = (row.high + row.low) / 2
        if row.metric == "accuracy":
            assert middle - half <= row.chance <= middle + half, row
        else:  # chance is the best constant answer on the test set, an upper bound
            assert row.score <= row.chance + 1e-9, row


def test_every_family_is_scored_and_most_have_multiple_choice(baseline):
    formats = {(row.family, row.format) for row in baseline}
    assert {family for family, _ in formats} == set(families.FAMILIES)
    assert {family for family, kind in formats if kind == "choice"} == set(families.FAMILIES) - {
        "grounding",
        "long_grounding",
        "caption",
    }


def test_thought_precedes_the_answer_if_the_question_asks_for_it():
    count = 0
    for sample in annotate("train", 300, "conversation", thinking=0.5):
        for question, answer in zip(sample.messages[::2], sample.messages[1::2], strict=True):
            text = str(question["content"])
            assert ("Think first." in text) == answer["content"].startswith("<think>")
            count += "Think first." in text
    assert count > 50


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_scene_is_a_function_of_its_seed(family):
    first, second = (families.generate(family, np.random.default_rng([1, 2])) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(scene.render(first[0])[:2], scene.render(second[0])[:2])


def area(frame: np.ndarray, colour: str) -> int:
    """Number of pixels of exactly this colour, before encoding."""
    return int((frame == scene.COLOURS[colour]).all(-1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_grounding_span_matches_the_visible_frames(seed):
    clip, questions = families.generate("grounding", np.random.default_rng(seed))
    frames = scene.render(clip)
    for question in questions:
        if question.family != "grounding":
            continue
        start, end = question.span
        visible = [sum(area(frame, colour) for colour in scene.COLOURS) > 0 for frame in frames]
        expected = [start <= i / clip.rate < end for i in range(len(frames))]
        assert visible == expected


@pytest.mark.parametrize("seed", range(5))
def test_motion_answer_matches_the_pixels(seed):
    clip, questions = families.generate("motion", np.random.default_rng(seed))
    frames = scene.render(clip)
    for question in questions:
        if question.family != "motion":
            continue
        colour = clip.actors[0].colours[0]
        centres = []
        for frame in frames:
            rows, columns = np.nonzero((frame == scene.COLOURS[colour]).all(-1))
            if len(rows):
                centres.append((columns.mean() / clip.width, rows.mean() / clip.height))
        dx, dy = np.subtract(centres[-1], centres[0])
        direction = (
            ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
        )
        assert direction == question.answer


def test_clips_last_two_seconds_to_two_minutes():
    durations = [
        families.generate(family, np.random.default_rng(seed))[0].duration
        for family in families.FAMILIES
        for seed in range(80)
    ]
    assert min(durations) == 2
    assert 100 < max(durations) <= 120


def test_options_are_distinct_and_correct_letters_are_balanced():
    letters = []
    for sample in annotate("test", 400):
        truth = sample.truths[0]
        if truth["format"] == "choice":
            assert len(set(truth["options"])) == len(truth["options"]) >= 3
            letters.append(truth["answer"])
    assert {letters.count(letter) / len(letters) > 0.15 for letter in "ABCD"} == {True}
