"""Gradients that are not finite, losses that jump: recorded, gone back from, given up on."""

import json
import math

import pytest

from ivx.errors import UserError
from ivx.training import loop
from ivx.training.stability import FILE, RollBack, Stability
from ivx.training.writers import read_metrics
from tests import toy

WATCH = loop.WatchSpec(rollback_after=3, spike=8.0, watchdog=0.0, watchdog_ends=False)


def metrics(loss: float) -> dict:
    return {"loss/total": loss, "grad/norm": 1.0}


def records(workdir) -> list[dict]:
    path = workdir / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(workdir) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


def test_a_jump_is_recorded_with_the_samples(tmp_path):
    stability = Stability(tmp_path, rollback_after=0, spike=8.0)
    for step in range(40):
        stability.see(step, metrics(2.0 + 0.1 * math.sin(step)), ("usual",))
    assert records(tmp_path) == []
    stability.see(40, metrics(4.0), ("odd", "even"))
    [record] = records(tmp_path)
    assert record["step"] == 40 and record["kind"] == "jump" and record["loss/total"] == 4.0
    assert record["loss/median"] == pytest.approx(2.0, abs=0.05)
    assert record["samples"] == ["odd", "even"]


def test_a_loss_that_falls_or_stands_still_does_not_jump(tmp_path):
    stability = Stability(tmp_path, rollback_after=0, spike=8.0)
    for step in range(60):
        stability.see(step, metrics(5.0 / (1 + step)), ())
    for step in range(60, 200):
        stability.see(step, metrics(0.08 + 1e-4 * (step % 2)), ())
    assert records(tmp_path) == []


def test_only_a_row_leads_back(tmp_path):
    stability = Stability(tmp_path, rollback_after=3, spike=8.0)
    for step, loss in enumerate([math.nan, math.nan, 1.0, math.inf, math.nan]):
        stability.see(step, metrics(loss), ("a",))
    with pytest.raises(RollBack, match="3 steps in a row, from step 3 on"):
        stability.see(5, metrics(math.nan), ("a",))
    assert [(one["step"], one["loss/total"]) for one in records(tmp_path)] == [
        (0, "nan"),
        (1, "nan"),
        (3, "inf"),
        (4, "nan"),
        (5, "nan"),
    ]


def test_one_bad_batch_is_skipped_and_counted(tmp_path):
    result = toy.train(tmp_path, toy.Stage(lambda number: math.nan if number == 5 else 1.0))
    assert result.skipped_steps == 1
    [record] = records(tmp_path) or [None]
    assert record["step"] == 5 and record["samples"] == [f"5/{row}" for row in range(toy.PACKS)]
    assert math.isfinite(result.loss)


def test_a_fault_that_passes_costs_nothing(tmp_path):
    """The machine is at fault once: after going back, every loss is that of a sound run."""
    toy.train(tmp_path / "sound")
    bad = {5: 1, 6: 1, 7: 1}
    stage = toy.Stage(lambda number: math.nan if bad.pop(number, 0) else 1.0)
    result = toy.train(tmp_path / "faulty", stage, watch=WATCH)
    assert result.skipped_steps == 0 and not bad
    assert losses(tmp_path / "faulty") == losses(tmp_path / "sound")
    assert [one["step"] for one in records(tmp_path / "faulty")] == [5, 6, 7]


def test_a_fault_that_stays_ends_the_run(tmp_path):
    stage = toy.Stage(lambda number: math.nan if number >= 5 else 1.0)
    with pytest.raises(UserError, match=r"3 steps in a row, from step 5 on.*lower optim"):
        toy.train(tmp_path, stage, watch=WATCH)
    # Twice the same three, and the last good checkpoint is still there.
    assert [one["step"] for one in records(tmp_path)] == [5, 6, 7] * 2
    assert (tmp_path / "checkpoints/4").is_dir()


def test_without_a_checkpoint_the_run_begins_again(tmp_path):
    bad = {0: 1, 1: 1, 2: 1}
    stage = toy.Stage(lambda number: math.nan if bad.pop(number, 0) else 1.0)
    result = toy.train(tmp_path, stage, watch=WATCH)
    assert result.skipped_steps == 0 and result.steps == 12
