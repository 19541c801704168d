"""Metric writers: JSON lines without duplicate steps after a resume, TensorBoard, W&B."""

import json
import math
import pathlib
import sys
import types

import pytest

from ivx.errors import UserError
from ivx.reporting import curves
from ivx.training import writers

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies


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


GARBAGE = {
    "is not JSON": [b"garbage", bytes(50), b'{"step": 4, "loss/to', b"{]", b"[" * 100_000, b" "],
    "is not text": [b'{"step": 4, "loss/total": \xff}', b"\xfe\xff\x00{"],
    "is no object": [b"[]", b"null", b"3", b'"text"', b"NaN"],
    "has no step": [
        *(b"{}", b'{"loss/total": 3}', b'{"step": "4"}', b'{"step": NaN}', b'{"step": -1}'),
        *(b'{"step": true}', b'{"step": 1.5}', b'{"step": 1' + b"0" * 400 + b"}"),
    ],
    "has no number": [
        *(b'{"step": 4, "loss/total": "3"}', b'{"step": 4, "loss/total": null}'),
        *(b'{"step": 4, "loss/total": [3]}', b'{"step": 4, "loss/total": 1' + b"0" * 400 + b"}"),
    ],
    "has an unreadable name": [b'{"step": 4, "\\u001b[2J": 3}', b'{"step": 4, "\\ud800": 3}'],
}


@pytest.mark.parametrize(
    ("reason", "line"), [(reason, line) for reason, lines in GARBAGE.items() for line in lines]
)
def test_spoiled_row_is_named_and_no_other_is_lost(tmp_path, capsys, reason, line):
    path = tmp_path / writers.METRICS
    good = [{"step": step, "loss/total": 1 / step} for step in (1, 2, 3, 4)]
    text = [json.dumps(row).encode() for row in good]
    path.write_bytes(b"\n".join([*text[:2], line, *text[2:]]) + b"\n")
    assert writers.read_metrics(path) == good
    assert f"line 3 {reason}" in capsys.readouterr().err
    writers.JsonLinesWriter(path, resume_step=3).close()
    assert path.read_text().splitlines() == [json.dumps(row) for row in good[:3]]


def test_not_finite_loss_is_no_spoiled_row(tmp_path, capsys):
    path = tmp_path / writers.METRICS
    writer = writers.JsonLinesWriter(path, 0)
    writer.write_scalars(1, {"loss/total": float("nan"), "grad/norm": float("inf")})
    writer.close()
    [row] = writers.read_metrics(path)
    assert row["step"] == 1 and row["grad/norm"] == float("inf")
    assert not capsys.readouterr().err


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.one_of(st.integers(1, 9), st.binary(max_size=30)), max_size=12),
    st.binary(max_size=20),
)
def test_rows_between_any_bytes_are_read(tmp_path_factory, parts, end):
    """Integers stand for good rows, bytes for anything else; the last line has no end."""
    path = tmp_path_factory.mktemp("rows") / writers.METRICS
    rows = [{"step": part, "loss/total": 0.5} for part in parts if isinstance(part, int)]
    lines = [
        json.dumps({"step": part, "loss/total": 0.5}).encode() if isinstance(part, int) else part
        for part in parts
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines) + end)
    assert writers.read_metrics(path) == rows


def test_rows_of_any_numbers_are_drawn():
    """Values that a spoiled file may hold do not end a report."""
    numbers = [math.nan, math.inf, 1e308, -1e308, 5e-324, -0.0, 2**53 - 1, 3.4e38]
    rows = [{"step": step, "loss/total": number} for step, number in enumerate(numbers)]
    for name in ("loss/total", "grad/norm", "mfu", "data/wait_ms", "tokens/sec"):
        assert curves.draw([{"step": row["step"], name: row["loss/total"]} for row in rows])


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
