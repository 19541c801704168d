"""The committed models: they load as a user's folder would, and see what they should."""

import pathlib

import pytest

from data_pipelines import sources
from data_pipelines.synthetic import presets, write
from ivx import build
from ivx.build import stored
from ivx.evaluation import runner, scoring

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
# Most bytes of each.
LIMITS = {"tiny-base": 12e6, "tiny-teacher": 16e6}
FAMILIES = ("attribute", "counting", "motion", "order")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> sources.DataSet:
    """Clips of a seed that no data set was made from."""
    folder = tmp_path_factory.mktemp("unseen") / "data"
    split = presets.Split(40, dict.fromkeys(FAMILIES, 1.0))
    write.synthesize(folder, {"unseen": split}, seed=12345, workers=2)
    [member] = sources.read_mixture(folder / "data.json", ("synthetic_unseen",))
    return member


@pytest.fixture(scope="module", params=LIMITS)
def predictions(request, unseen) -> list[scoring.Prediction]:
    """What a model answers."""
    model = stored.open_model(ASSETS / request.param)
    sampler, _ = build.sampler(model)
    rule = build.layout_rule(model.config)
    return runner.run(sampler, rule, sources.read_samples(unseen), 16, 32).predictions


@pytest.mark.parametrize("kind", ["open", "choice"])
def test_it_answers_questions_about_unseen_clips(predictions, kind):
    """At least 0.85, as the cards say of many more."""
    points = [scoring.score(p) for p in predictions if p.truth["format"] == kind]
    assert len(points) >= 60
    assert sum(points) / len(points) >= 0.85


@pytest.mark.parametrize("name", LIMITS)
def test_it_is_small_and_says_what_it_is(name):
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) <= LIMITS[name]
    card = (ASSETS / name / "README.md").read_text()
    for fact in ("seed", "hours of training", "choice"):
        assert fact in card
