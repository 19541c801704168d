"""Non-finite gradients and loss spikes: recording, rollback, giving up."""

import json
import math

import pytest

from ivx.errors import UserError
from ivx.training import loop
from ivx.training.health.bad_steps import FILE, BadSteps, RollBack
from ivx.training.writers import read_metrics
from tests import toy

WATCH = loop.Watch(rollback_after=3, spike=8.0, watchdog=0.0, watchdog_ends=False)


def metrics(loss: float) -> dict:
    return {"loss/total": loss, "grad/norm": 1.0}


def records(workdir) -> list[dict]:
    path = workdir / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(workdir) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


def test_loss_spike_is_recorded_with_samples(tmp_path):
    bad_steps = BadSteps(tmp_path, rollback_after=0, spike=8.0)
    for step in range(40):
        bad_steps.see(step, metrics(2.0 + 0.1 * math.sin(step)), ("usual",))
    assert records(tmp_path) == []
    bad_steps.see(40, metrics(4.0), ("odd", "even"))
    [record] = records(tmp_path)
    assert record["step"] == 40 and record["kind"] == "jump" and record["loss/total"] == 4.0
    assert record["loss/median"] == pytest.approx(2.0, abs=0.05)
    assert record["samples"] == ["odd", "even"]


def test_falling_or_constant_loss_is_no_spike(tmp_path):
    bad_steps = BadSteps(tmp_path, rollback_after=0, spike=8.0)
    for step in range(60):
        bad_steps.see(step, metrics(5.0 / (1 + step)), ())
    for step in range(60, 200):
        bad_steps.see(step, metrics(0.08 + 1e-4 * (step % 2)), ())
    assert records(tmp_path) == []


def test_only_consecutive_bad_steps_roll_back(tmp_path):
    bad_steps = BadSteps(tmp_path, rollback_after=3, spike=8.0)
    for step, loss in enumerate([math.nan, math.nan, 1.0, math.inf, math.nan]):
        bad_steps.see(step, metrics(loss), ("a",))
    with pytest.raises(RollBack, match="3 consecutive steps, starting at step 3"):
        bad_steps.see(5, metrics(math.nan), ("a",))
    assert [(record["step"], record["loss/total"]) for record in records(tmp_path)] == [
        (0, "nan"),
        (1, "nan"),
        (3, "inf"),
        (4, "nan"),
        (5, "nan"),
    ]


def test_single_bad_batch_is_skipped_and_counted(tmp_path):
    result = toy.train(tmp_path, toy.Stage(lambda number: math.nan if number == 5 else 1.0))
    assert result.skipped_steps == 1
    [record] = records(tmp_path) or [None]
    assert record["step"] == 5 and record["samples"] == [f"5/{row}" for row in range(toy.PACKS)]
    assert math.isfinite(result.loss)


def test_transient_fault_leaves_losses_unchanged(tmp_path):
    """After a rollback every loss equals that of a run without the fault."""
    toy.train(tmp_path / "clean")
    bad = {5: 1, 6: 1, 7: 1}
    stage = toy.Stage(lambda number: math.nan if bad.pop(number, 0) else 1.0)
    result = toy.train(tmp_path / "faulty", stage, watch=WATCH)
    assert result.skipped_steps == 0 and not bad
    assert losses(tmp_path / "faulty") == losses(tmp_path / "clean")
    assert [record["step"] for record in records(tmp_path / "faulty")] == [5, 6, 7]


def test_permanent_fault_ends_the_run(tmp_path):
    stage = toy.Stage(lambda number: math.nan if number >= 5 else 1.0)
    with pytest.raises(UserError, match=r"3 consecutive steps, starting at step 5.*lower optim"):
        toy.train(tmp_path, stage, watch=WATCH)
    # The same three steps twice; the last good checkpoint is kept.
    assert [record["step"] for record in records(tmp_path)] == [5, 6, 7] * 2
    assert (tmp_path / "checkpoints/4").is_dir()


def test_rollback_without_checkpoint_restarts_from_step_0(tmp_path):
    bad = {0: 1, 1: 1, 2: 1}
    stage = toy.Stage(lambda number: math.nan if bad.pop(number, 0) else 1.0)
    result = toy.train(tmp_path, stage, watch=WATCH)
    assert result.skipped_steps == 0 and result.steps == 12
