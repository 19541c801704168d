"""Group sequence policy optimization: the formula by hand, and rollouts that can be drawn again."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from data_pipelines import packing, sources
from data_pipelines.loader import LoaderOptions
from ivx.evaluation import runner
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES, make_mesh
from ivx.sampling.sampler import Sampler
from ivx.stages import gspo, rewards, rollouts
from ivx.stages.language_model import token_nll
from ivx.stages.questions import Questions
from ivx.text import tool_calls
from ivx.training import checkpoint, loop
from ivx.training.state import init_state, make_step
from tests.conftest import small_spec

# Two packs: answers of 2 and 3 tokens, then one of 1; segments hold prompts too; 0 is padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]], np.int32)
WEIGHTS = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]], np.float32)
LOGPS = np.array([[0, -0.5, -1.1, 0, -0.2, -2.0, -0.3, 0], [0, 0, -0.7, 0, 0, 0, 0, 0]])
OLD = np.array([[0, -0.9, -1.0, 0, -0.1, -1.7, -0.3, 0], [0, 0, -0.65, 0, 0, 0, 0, 0]])
ADVANTAGE = {(0, 1): 1.5, (0, 2): -0.5, (1, 1): -1.0}


def by_hand(logps: np.ndarray, low: float, high: float) -> tuple[float, np.ndarray]:
    """The loss and its gradient in float64, answer by answer, from equations 5 to 7."""
    loss, gradient = 0.0, np.zeros_like(logps)
    for (row, segment), value in ADVANTAGE.items():
        here = (SEGMENTS[row] == segment) & (WEIGHTS[row] > 0)
        length = here.sum()
        ratio = np.exp((logps[row] - OLD[row])[here].sum() / length)
        clipped = np.clip(ratio, 1 - low, 1 + high)
        loss -= min(ratio * value, clipped * value)
        if ratio * value <= clipped * value:
            gradient[row][here] -= value * ratio / length
    return loss, gradient


@pytest.mark.parametrize(("low", "high"), [(0.9, 9.0), (0.05, 0.08), (0.2, 0.05)])
def test_loss_and_gradient_equal_the_formula(low, high):
    values = np.zeros(SEGMENTS.shape, np.float32)
    for (row, segment), value in ADVANTAGE.items():
        values[row][SEGMENTS[row] == segment] = value

    def loss(logps):
        return gspo.gspo_loss(logps, OLD, values, WEIGHTS, SEGMENTS, low, high)["loss"]

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGPS, jnp.float32))
    expected, expected_gradient = by_hand(LOGPS, low, high)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_clipping_is_counted_where_it_bites():
    """Answer 1 rises (ratio e^0.15) with A > 0; answers 2 and 3 fall with A < 0."""
    values = np.zeros(SEGMENTS.shape, np.float32)
    for (row, segment), value in ADVANTAGE.items():
        values[row][SEGMENTS[row] == segment] = value
    logps = jnp.asarray(LOGPS, jnp.float32)

    def count(low: float, high: float) -> float:
        return float(gspo.gspo_loss(logps, OLD, values, WEIGHTS, SEGMENTS, low, high)["clipped"])

    assert count(0.9, 9.0) == 0
    assert count(0.9, 0.1) == 1
    assert count(0.01, 0.1) == 3


def test_advantages_of_a_group():
    np.testing.assert_allclose(gspo.advantages([1, 0, 0, 1]), [1, -1, -1, 1], atol=1e-5)
    assert not gspo.advantages([0.7, 0.7, 0.7]).any()


LOOK = tool_calls.render_call("inspect", {"start": 4.0, "end": 6.0})
TRUE_LOOK = {
    "format": "call",
    "answer": json.dumps({"name": "inspect", "arguments": {"start": 4.0, "end": 6.0}}),
}


@pytest.mark.parametrize(
    ("text", "truth", "points"),
    [
        ("red(B)", {"format": "choice", "answer": "B", "options": ["a", "red", "c"]}, 1.0),
        ("red(C)", {"format": "choice", "answer": "B", "options": ["a", "red", "c"]}, 0.0),
        ("(D)", {"format": "choice", "answer": "D", "options": ["a", "red", "c"]}, 0.0),
        ("4.0 to 8.0 seconds", {"format": "open", "span": [4, 12]}, 0.5),
        ("<think>1 to 2</think>4.0 to 12.0", {"format": "open", "span": [4, 12]}, 1.0),
        ("8.0 to 4.0 seconds", {"format": "open", "span": [4, 8]}, 0.0),
        ("no idea", {"format": "open", "span": [4, 8]}, 0.0),
        ("Red.", {"format": "open", "answer": "red", "values": ["red"]}, 1.0),
        (f"<think>x</think>\n{LOOK}", TRUE_LOOK, 1.0),
        (LOOK.replace("6.0", "7.0"), TRUE_LOOK, 0.5),
        (LOOK.replace('"end": 6.0', '"till": 6.0'), TRUE_LOOK, 1 / 3),
        (LOOK.replace("inspect", "finish"), TRUE_LOOK, 0.0),
        (LOOK + LOOK, TRUE_LOOK, 0.0),
        (f"<think>{LOOK}</think>", TRUE_LOOK, 0.0),
        ("4.0 to 6.0 seconds", TRUE_LOOK, 0.0),
    ],
)
def test_rewards_follow_the_rule(text, truth, points):
    assert rewards.reward_of(truth)(text, truth) == pytest.approx(points)


@pytest.fixture(scope="module")
def questions(data_folder) -> list[sources.Sample]:
    [member] = sources.read_mixture(data_folder / "data.json", ("synthetic_test",))
    return [runner.as_prompt(sample) for sample in sources.read_samples(member)]


MODEL = ModelDefinition(small_spec())
PROMPTS = 4
SPEC = rollouts.RolloutSpec(group=3, temperature=1.0, limit=6, seed=7)
OPTIONS = LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**26)
ROOM = packing.PackShape(tokens=512, patches=480, slice_block=48)


@jax.jit
def nll(params, batch):
    return token_nll(MODEL.bind(params), batch)


def trainer_logps(params, batch) -> np.ndarray:
    """Log-probabilities as training has them, on one device."""
    return -np.asarray(nll(params, batch))


def make_roller(questions, rule, kind=rollouts.Roller, mesh=None) -> rollouts.Roller:
    sampler = Sampler(MODEL, {}, rule.tokenizer.end_of_turn, mesh)
    asked = Questions(questions, rule, PROMPTS, SPEC.seed, OPTIONS)
    return kind(asked, rule.tokenizer, sampler, SPEC)


class Finished(rollouts.Roller):
    """An untrained model hardly ever closes its turn: here every answer counts as closed."""

    def roll(self, params, number):
        found, skipped = super().roll(params, number)
        return [dataclasses.replace(one, ended=True) for one in found], skipped


def make_stage(questions, rule, mesh, minibatches: int) -> gspo.GspoStage:
    roller = make_roller(questions, rule, Finished, mesh)
    spec = gspo.GspoSpec(minibatches, 3e-4, 4e-4)
    return gspo.GspoStage(roller, MODEL, ROOM, 4, spec, 3, mesh)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"replica": 4, "fsdp": 1, "tensor": 2, "context": 1})


@pytest.fixture(scope="module")
def rolled(questions, rule):
    params = MODEL.init(0)
    found, skipped = make_roller(questions, rule).roll(params, 2)
    assert not skipped
    return params, found


def test_a_rollout_can_be_drawn_again(rolled, questions, rule):
    """From seed, number and parameters alone, by a roller that has done nothing before."""
    params, found = rolled
    again, _ = make_roller(questions, rule).roll(params, 2)
    assert [r.answer.tokens for r in again] == [r.answer.tokens for r in found]
    other, _ = make_roller(questions, rule).roll(params, 3)
    assert [r.answer.tokens for r in other] != [r.answer.tokens for r in found]


def test_the_samplers_log_probabilities_are_the_trainers(rolled):
    params, found = rolled
    packed = rollouts.pack(found, ROOM, packs=4)
    assert sum(map(len, packed.places)) == len(found)
    logps = trainer_logps(params, packed.batch)
    for row, placed in enumerate(packed.places):
        for segment, rollout in enumerate(placed, 1):
            here = (packed.batch.segments[row] == segment) & (packed.batch.weights[row] > 0)
            np.testing.assert_allclose(logps[row][here], rollout.answer.logps, atol=2e-5)


def test_a_step_makes_rewarded_answers_likelier(questions, rule, mesh, monkeypatch):
    """One on-policy step: the ratio is 1 before it; after it, good answers gain on bad ones."""
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    stage, optimizer = make_stage(questions, rule, mesh, 1), optax.sgd(0.1)
    params = MODEL.init(0)
    [loaded] = stage.roll(params, 0)
    assert loaded.numbers["rl/sampler_difference"] < 2e-5
    step = jax.jit(make_step(MODEL, stage, optimizer, 1))
    state, metrics = step(init_state(params, optimizer), {}, loaded.batch)
    assert float(metrics["rl/ratio"]) == pytest.approx(1.0, abs=1e-4)
    assert float(metrics["rl/clipped"]) == 0
    inner = loaded.batch.batch
    after = trainer_logps(state.params, inner)
    gained = (after - loaded.batch.old_logps) * inner.weights
    assert (gained * loaded.batch.advantages).sum() > 0


def test_a_run_cannot_resume_inside_a_rollout(questions, rule, mesh):
    with pytest.raises(ValueError, match="within a rollout"):
        make_stage(questions, rule, mesh, 4).producer(6)


def test_a_rollout_is_handed_out_in_minibatches(questions, rule, mesh, monkeypatch):
    """Every answer counts in one of them; only those with an advantage are packed."""
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    stage = make_stage(questions, rule, mesh, 2)
    params = MODEL.init(0)
    found, _ = stage._roller.roll(params, 0)
    ready = stage.roll(params, 0)
    assert len(ready) == 2
    assert sum(part.batch.answers.sum() for part in ready) == pytest.approx(len(found))
    packed = sum(len(np.unique(row[row > 0])) for part in ready for row in part.batch.segments)
    groups = [found[i : i + 3] for i in range(0, len(found), 3)]
    points = [[len(r.text) % 3 / 2 for r in group] for group in groups]
    assert packed == sum(int(np.count_nonzero(gspo.advantages(p))) for p in points) > 0
    # Old log-probabilities of both are those of the parameters that rolled out.
    for part in ready:
        inner = part.batch.batch
        logps = trainer_logps(params, inner)
        np.testing.assert_allclose(
            part.batch.old_logps * inner.weights, logps * inner.weights, atol=2e-5
        )


def test_a_run_cut_off_in_reinforcement_ends_with_the_same_bits(
    questions, rule, monkeypatch, tmp_path
):
    """Killed before the checkpoint after the second rollout is whole: answers are drawn as before.

    By a stage that has done nothing yet, as in a process of its own.
    """
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    optimizer, mesh = optax.adam(1e-3), Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), AXES)
    spec = loop.RunSpec(4, 0, 1, 1, log_every=1, validate_every=4, save_every=2, keep=2)

    def train(workdir, stage) -> dict:
        workdir.mkdir(exist_ok=True)
        loop.train(workdir, "{}", MODEL, stage, optimizer, mesh, spec)
        return checkpoint.load_params(workdir, MODEL.abstract_params)[0]

    whole = train(tmp_path / "whole", make_stage(questions, rule, mesh, 2))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
    begun = make_stage(questions, rule, mesh, 2)
    drawn = []
    roll = begun.roll
    begun.roll = lambda params, number: drawn.append(number) or roll(params, number)
    again = train(tmp_path / "cut", begun)
    assert drawn == [1]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
