"""The committed base model: it loads as a user's folder would, and sees what it should."""

import pathlib

import pytest

from data_pipelines import sources
from data_pipelines.synthetic import presets, write
from ivx import build
from ivx.build import stored
from ivx.evaluation import runner, scoring

BASE = pathlib.Path(__file__).parents[1] / "assets" / "tiny-base"
FAMILIES = ("attribute", "counting", "motion", "order")


@pytest.fixture(scope="module")
def predictions(tmp_path_factory) -> list[scoring.Prediction]:
    """Its answers to questions about clips of a seed that no data set was made from."""
    folder = tmp_path_factory.mktemp("unseen") / "data"
    split = presets.Split(40, dict.fromkeys(FAMILIES, 1.0))
    write.synthesize(folder, {"unseen": split}, seed=12345, workers=2)
    [member] = sources.read_mixture(folder / "data.json", ("synthetic_unseen",))
    model = stored.open_model(BASE)
    sampler, _ = build.sampler(model)
    rule = build.layout_rule(model.config)
    return runner.run(sampler, rule, sources.read_samples(member), 16, 32).predictions


@pytest.mark.parametrize("kind", ["open", "choice"])
def test_it_answers_questions_about_unseen_clips(predictions, kind):
    """At least 0.85, as its card says of many more."""
    points = [scoring.score(p) for p in predictions if p.truth["format"] == kind]
    assert len(points) >= 60
    assert sum(points) / len(points) >= 0.85


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 12e6
    card = (BASE / "README.md").read_text()
    for fact in ("seed", "hours of training", "choice"):
        assert fact in card
