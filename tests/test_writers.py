"""Metric writers: JSON lines without duplicate steps after a resume, TensorBoard, W&B."""

import json
import pathlib
import sys
import types

import pytest

from ivx.errors import UserError
from ivx.reporting import curves
from ivx.training import writers


def test_resumed_run_has_each_step_once(tmp_path):
    first = writers.make_writer(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        first.write_scalars(step, {"loss/total": 1 / step})
    first.flush()
    first.close()
    with (tmp_path / writers.METRICS).open("a") as file:
        file.write('{"step": 4, "loss/to')  # killed in the middle of a line
    second = writers.make_writer(tmp_path, resume_step=2)
    second.write_scalars(3, {"loss/total": 0.1})
    second.close()
    rows = writers.read_metrics(tmp_path / writers.METRICS)
    assert [(row["step"], row["loss/total"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.1)]


def test_tensorboard_writer_writes_events(tmp_path: pathlib.Path):
    board = writers.TensorBoardWriter(tmp_path, 0)
    board.write_scalars(1, {"loss/total": 1.0})
    board.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))


class FakeWandb(types.ModuleType):
    """Records the calls of a writer."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logged, self.refusal = [], [], None
        self.finished = 0

    def init(self, **options):
        if self.refusal:
            raise self.Error(self.refusal)
        self.inits.append(options)
        return self

    def define_metric(self, name, step_metric):
        self.steps = {name: step_metric}

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "videos")
    return fake


def test_all_starts_of_a_run_share_one_wandb_run(wandb, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"optim": {"learning_rate": 1e-4}}))
    for start in (0, 1):
        writer = writers.make_writer(tmp_path, start)
        # The second start repeats a step, which W&B's own step counter does not allow.
        for step in (start + 1, start + 2):
            writer.write_scalars(step, {"loss/total": 1 / step})
        writer.close()
    first, second = wandb.inits
    assert first["project"] == "videos" and first["config"]["optim"] == {"learning_rate": 1e-4}
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert wandb.steps == {"*": "step"} and wandb.finished == 2
    assert [row["step"] for row in wandb.logged] == [1, 2, 2, 3]
    assert [row["loss/total"] for row in wandb.logged] == [1.0, 1 / 2, 1 / 2, 1 / 3]


def test_wandb_is_off_without_project(wandb, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_PROJECT")
    writers.make_writer(tmp_path, 0).close()
    assert not wandb.inits and not (tmp_path / "wandb_id").exists()


def test_unusable_wandb_raises_user_error_before_the_first_step(wandb, monkeypatch, tmp_path):
    wandb.refusal = "api_key not configured"
    with pytest.raises(
        UserError, match=r"could not start a run in project videos: api_key not.*wandb login"
    ):
        writers.make_writer(tmp_path, 0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"WANDB_PROJECT=videos enables W&B.*ivx\[wandb\]"):
        writers.make_writer(tmp_path, 0)


def test_curves_are_drawn_for_available_metrics():
    rows = [{"step": s, "loss/total": 5 / s, "tokens/sec": 100.0} for s in range(1, 30)]
    pictures = curves.draw(rows)
    assert len(pictures) == 2 and all(picture.startswith("<svg") for picture in pictures)
    assert curves.draw([]) == []
