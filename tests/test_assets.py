"""The committed models load like a user's folder, and answer correctly."""

import pathlib

import pytest

from data_pipelines import sources
from data_pipelines.synthetic import presets, write
from ivx import from_config
from ivx.evaluation import runner, scoring

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
# Size limit of each, in bytes.
LIMITS = {"tiny-base": 12e6, "tiny-teacher": 16e6}
FAMILIES = ("attribute", "counting", "motion", "order")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> sources.DataSet:
    """Clips of a seed that no data set uses."""
    folder = tmp_path_factory.mktemp("unseen") / "data"
    split = presets.Split(40, dict.fromkeys(FAMILIES, 1.0))
    write.synthesize(folder, {"unseen": split}, seed=12345, workers=2)
    [member] = sources.read_mixture(folder / "data.json", ("synthetic_unseen",))
    return member


@pytest.fixture(scope="module", params=LIMITS)
def predictions(request, unseen) -> list[scoring.Prediction]:
    """Answers of a model."""
    model = from_config.stored_model.open_model(ASSETS / request.param)
    sampler, _ = from_config.inference.sampler(model)
    rule = from_config.data.layout_rule(model.config)
    return runner.run(sampler, rule, sources.read_samples(unseen), 16, 32).predictions


@pytest.mark.parametrize("kind", ["open", "choice"])
def test_model_answers_questions_about_unseen_clips(predictions, kind):
    """At least 0.85; the model cards report this on many more clips."""
    points = [scoring.score(p) for p in predictions if p.truth["format"] == kind]
    assert len(points) >= 60
    assert sum(points) / len(points) >= 0.85


@pytest.mark.parametrize("name", LIMITS)
def test_model_is_small_and_has_model_card(name):
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) <= LIMITS[name]
    card = (ASSETS / name / "README.md").read_text()
    for fact in ("seed", "hours of training", "choice"):
        assert fact in card
