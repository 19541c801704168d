"""GSPO: the loss against the formula, and reproducible rollouts."""

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
from ivx.judging import rewards
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES, make_mesh
from ivx.sampling.sampler import Sampler
from ivx.stages import gspo, rollouts
from ivx.stages.language_model import token_nll
from ivx.stages.questions import Questions
from ivx.text import tool_calls
from ivx.training import loop
from ivx.training.checkpoints import checkpoint
from ivx.training.step import init_state, make_step
from tests.conftest import small_spec

# Two packs: answers of 2 and 3 tokens, then of 1 token; segments include prompts; 0 is padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]], np.int32)
WEIGHTS = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]], np.float32)
LOGPS = np.array([[0, -0.5, -1.1, 0, -0.2, -2.0, -0.3, 0], [0, 0, -0.7, 0, 0, 0, 0, 0]])
OLD = np.array([[0, -0.9, -1.0, 0, -0.1, -1.7, -0.3, 0], [0, 0, -0.65, 0, 0, 0, 0, 0]])
ADVANTAGE = {(0, 1): 1.5, (0, 2): -0.5, (1, 1): -1.0}


def reference_loss(logps: np.ndarray, low: float, high: float) -> tuple[float, np.ndarray]:
    """Loss and gradient in float64, one answer at a time, from equations 5 to 7."""
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
def test_loss_and_gradient_equal_formula(low, high):
    values = np.zeros(SEGMENTS.shape, np.float32)
    for (row, segment), value in ADVANTAGE.items():
        values[row][SEGMENTS[row] == segment] = value

    fixed = [jnp.asarray(a) for a in (OLD, values, WEIGHTS, SEGMENTS)]

    def loss(logps):
        return gspo.gspo_loss(logps, *fixed, low, high)["loss"]

    actual, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGPS, jnp.float32))
    expected, expected_gradient = reference_loss(LOGPS, low, high)
    assert float(actual) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_clipped_answers_are_counted():
    """Answer 1 has ratio e^0.15 and A > 0; answers 2 and 3 have ratios below 1 and A < 0."""
    values = np.zeros(SEGMENTS.shape, np.float32)
    for (row, segment), value in ADVANTAGE.items():
        values[row][SEGMENTS[row] == segment] = value
    logps = jnp.asarray(LOGPS, jnp.float32)
    fixed = [jnp.asarray(a) for a in (OLD, values, WEIGHTS, SEGMENTS)]

    def count(low: float, high: float) -> float:
        return float(gspo.gspo_loss(logps, *fixed, low, high)["clipped"])

    assert count(0.9, 9.0) == 0
    assert count(0.9, 0.1) == 1
    assert count(0.01, 0.1) == 3


def test_advantages_are_normalised_within_a_group():
    np.testing.assert_allclose(gspo.advantages([1, 0, 0, 1]), [1, -1, -1, 1], atol=1e-5)
    assert not gspo.advantages([0.7, 0.7, 0.7]).any()


CALL = tool_calls.render_call("inspect", {"start": 4.0, "end": 6.0})
TRUE_CALL = {
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
        (f"<think>x</think>\n{CALL}", TRUE_CALL, 1.0),
        (CALL.replace("6.0", "7.0"), TRUE_CALL, 0.5),
        (CALL.replace('"end": 6.0', '"till": 6.0'), TRUE_CALL, 1 / 3),
        (CALL.replace("inspect", "finish"), TRUE_CALL, 0.0),
        (CALL + CALL, TRUE_CALL, 0.0),
        (f"<think>{CALL}</think>", TRUE_CALL, 0.0),
        ("4.0 to 6.0 seconds", TRUE_CALL, 0.0),
    ],
)
def test_reward_of_answer_equals_expected(text, truth, points):
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
    """The trainer's log-probabilities, on one device."""
    return -np.asarray(nll(params, batch))


def make_roller(questions, rule, kind=rollouts.Roller, mesh=None) -> rollouts.Roller:
    sampler = Sampler(MODEL, {}, rule.tokenizer.end_of_turn, mesh)
    reader = Questions(questions, rule, PROMPTS, SPEC.seed, OPTIONS)
    return kind(reader, rule.tokenizer, sampler, SPEC)


class Finished(rollouts.Roller):
    """Counts every answer as ended: an untrained model hardly ever ends its turn."""

    def roll(self, params, number):
        sampled, skipped = super().roll(params, number)
        return [dataclasses.replace(rollout, ended=True) for rollout in sampled], skipped


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
    sampled, skipped = make_roller(questions, rule).roll(params, 2)
    assert not skipped
    return params, sampled


def test_rollout_is_reproducible(rolled, questions, rule):
    """A new roller samples it again from seed, number and parameters."""
    params, sampled = rolled
    again, _ = make_roller(questions, rule).roll(params, 2)
    assert [r.answer.tokens for r in again] == [r.answer.tokens for r in sampled]
    other, _ = make_roller(questions, rule).roll(params, 3)
    assert [r.answer.tokens for r in other] != [r.answer.tokens for r in sampled]


def test_log_probabilities_of_sampler_and_trainer_agree(rolled):
    params, sampled = rolled
    packed = rollouts.pack(sampled, ROOM, packs=4)
    assert sum(map(len, packed.rows)) == len(sampled)
    logps = trainer_logps(params, packed.batch)
    for row, packed_rollouts in enumerate(packed.rows):
        for segment, rollout in enumerate(packed_rollouts, 1):
            here = (packed.batch.segments[row] == segment) & (packed.batch.weights[row] > 0)
            np.testing.assert_allclose(logps[row][here], rollout.answer.logps, atol=2e-5)


def test_step_makes_rewarded_answers_likelier(questions, rule, mesh, monkeypatch):
    """In one on-policy step the ratio is 1; afterwards good answers have gained on bad ones."""
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    stage, optimizer = make_stage(questions, rule, mesh, 1), optax.sgd(0.1)
    params = MODEL.init(0)
    [loaded] = stage.roll(params, 0)
    assert loaded.metrics["rl/sampler_difference"] < 2e-5
    step = jax.jit(make_step(MODEL, stage, optimizer))
    state, metrics = step(init_state(params, optimizer), {}, loaded.batch)
    assert float(metrics["rl/ratio"]) == pytest.approx(1.0, abs=1e-4)
    assert float(metrics["rl/clipped"]) == 0
    inner = loaded.batch.batch
    after = trainer_logps(state.params, inner)
    gained = (after - loaded.batch.old_logps) * inner.weights
    assert (gained * loaded.batch.advantages).sum() > 0


def test_run_cannot_resume_inside_a_rollout(questions, rule, mesh):
    with pytest.raises(ValueError, match="does not start a rollout"):
        make_stage(questions, rule, mesh, 4).producer(6)


def test_rollout_is_split_into_minibatches(questions, rule, mesh, monkeypatch):
    """Every answer counts in one minibatch; only those with an advantage are packed."""
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    stage = make_stage(questions, rule, mesh, 2)
    params = MODEL.init(0)
    sampled, _ = stage._roller.roll(params, 0)
    ready = stage.roll(params, 0)
    assert len(ready) == 2
    assert sum(part.batch.answers.sum() for part in ready) == pytest.approx(len(sampled))
    packed = sum(len(np.unique(row[row > 0])) for part in ready for row in part.batch.segments)
    groups = [sampled[i : i + 3] for i in range(0, len(sampled), 3)]
    points = [[len(r.text) % 3 / 2 for r in group] for group in groups]
    assert packed == sum(int(np.count_nonzero(gspo.advantages(p))) for p in points) > 0
    # The old log-probabilities of all minibatches come from the parameters of the rollout.
    for part in ready:
        inner = part.batch.batch
        logps = trainer_logps(params, inner)
        np.testing.assert_allclose(
            part.batch.old_logps * inner.weights, logps * inner.weights, atol=2e-5
        )


def test_interrupted_run_resumes_bitwise(questions, rule, monkeypatch, tmp_path):
    """Killed before the checkpoint after the second rollout is complete.

    A new stage, as in a new process, samples the same answers again.
    """
    monkeypatch.setattr(gspo, "reward_of", lambda truth: lambda text, truth: len(text) % 3 / 2)
    optimizer, mesh = optax.adam(1e-3), Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), AXES)
    length = loop.Length(4, 1, log_every=1, validate_every=4, save_every=2, keep=2)

    def train(workdir, stage) -> dict:
        workdir.mkdir(exist_ok=True)
        loop.train(loop.Run(workdir, "{}", MODEL, stage, optimizer, mesh, length))
        return checkpoint.load_params(workdir, MODEL.abstract_params)[0]

    reference = train(tmp_path / "reference", make_stage(questions, rule, mesh, 2))
    shutil.copytree(tmp_path / "reference", tmp_path / "interrupted")
    shutil.rmtree(tmp_path / "interrupted" / "checkpoints" / "4")
    resumed = make_stage(questions, rule, mesh, 2)
    rolled_numbers = []
    roll = resumed.roll
    resumed.roll = lambda params, number: rolled_numbers.append(number) or roll(params, number)
    again = train(tmp_path / "interrupted", resumed)
    assert rolled_numbers == [1]
    for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
