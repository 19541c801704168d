"""The synthetic world: its answers can be seen, and cannot be guessed."""

import numpy as np
import pytest

from data_pipelines.synthetic import families, scene, write
from ivx.evaluation import scoring
from ivx.evaluation.text_only import TextOnlyModel


def annotate(split: str, count: int):
    """Samples of a split without their clips, by the code that writes them."""
    from data_pipelines.sources import Sample

    preset = write.Preset(
        {split: count},
        write.PRESETS["tiny"].shares,
        dict.fromkeys(write.PRESETS["tiny"].shares, 0.2),
    )
    found = []
    for job in write._jobs(None, preset, split, seed=0):
        for record in write.annotate(job).samples:
            found.append(
                Sample(
                    record["id"],
                    tuple(record["messages"]),
                    (),
                    tuple(record["truths"]),
                )
            )
    return found


@pytest.fixture(scope="module")
def baseline() -> list[scoring.Row]:
    """Scores of a model fitted to the words of 6,000 training clips, on 3,000 test clips."""
    model = TextOnlyModel().fit(annotate("train", 6000))
    return scoring.table(model.predict(annotate("test", 3000)))


def test_a_model_that_sees_no_video_stays_at_chance(baseline):
    """Chance lies in the 95% interval of its score, widened for 13 looks at once."""
    assert len(baseline) == 12
    for row in baseline:
        half = (row.high - row.low) / 2 * 1.5
        middle = (row.high + row.low) / 2
        if row.metric == "accuracy":
            assert middle - half <= row.chance <= middle + half, row
        else:  # the best constant answer is an upper bound that knows the test set
            assert row.score <= row.chance + 1e-9, row


def test_every_family_asks_openly_and_some_as_choice(baseline):
    asked = {(row.family, row.format) for row in baseline}
    assert {family for family, _ in asked} == set(families.FAMILIES)
    assert {f for f, kind in asked if kind == "choice"} == set(families.FAMILIES) - {
        "grounding",
        "caption",
    }


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_scenes_are_functions_of_their_seed(family):
    one, other = (families.invent(family, np.random.default_rng([1, 2])) for _ in range(2))
    assert one == other
    np.testing.assert_array_equal(scene.render(one[0])[:2], scene.render(other[0])[:2])


def area(frame: np.ndarray, colour: str) -> int:
    """Pixels of exactly this colour, before encoding."""
    return int((frame == scene.COLOURS[colour]).all(-1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_grounding_spans_are_where_the_shape_is(seed):
    clip, questions = families.invent("grounding", np.random.default_rng(seed))
    frames = scene.render(clip)
    for question in questions:
        if question.family != "grounding":
            continue
        start, end = question.span
        seen = [sum(area(frame, colour) for colour in scene.COLOURS) > 0 for frame in frames]
        expected = [start <= i / clip.rate < end for i in range(len(frames))]
        assert seen == expected


@pytest.mark.parametrize("seed", range(5))
def test_motion_answers_are_the_way_the_pixels_go(seed):
    clip, questions = families.invent("motion", np.random.default_rng(seed))
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
        way = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
        assert way == question.answer


def test_lengths_run_from_two_seconds_to_two_minutes():
    durations = [
        families.invent(family, np.random.default_rng(seed))[0].duration
        for family in families.FAMILIES
        for seed in range(80)
    ]
    assert min(durations) == 2
    assert 100 < max(durations) <= 120


def test_choices_hold_the_right_answer_once_and_its_letter_is_anywhere():
    letters = []
    for sample in annotate("test", 400):
        truth = sample.truths[0]
        if truth["format"] == "choice":
            assert len(set(truth["options"])) == len(truth["options"]) >= 3
            letters.append(truth["answer"])
    assert {letters.count(letter) / len(letters) > 0.15 for letter in "ABCD"} == {True}
