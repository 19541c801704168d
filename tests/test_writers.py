"""Metrics files: clu's interface, exact numbers, no step twice after a resume."""

import pathlib

from clu import metric_writers

from ivx.reporting import curves
from ivx.training import writers


def test_a_resumed_run_has_each_step_once(tmp_path):
    first = writers.make_writer(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        first.write_scalars(step, {"loss/total": 1 / step})
    first.flush()
    first.close()
    with (tmp_path / writers.METRICS).open("a") as file:
        file.write('{"step": 4, "loss/to')  # a kill in the middle of a line
    second = writers.make_writer(tmp_path, resume_step=2)
    second.write_scalars(3, {"loss/total": 0.1})
    second.close()
    rows = writers.read_metrics(tmp_path / writers.METRICS)
    assert [(row["step"], row["loss/total"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.1)]


def test_both_writers_are_clus(tmp_path: pathlib.Path):
    assert issubclass(writers.JsonLinesWriter, metric_writers.MetricWriter)
    board = writers.TensorBoardWriter(tmp_path, 0)
    assert isinstance(board, metric_writers.MetricWriter)
    board.write_scalars(1, {"loss/total": 1.0})
    board.write_texts(1, {"note": "hello"})
    board.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_curves_are_drawn_for_what_there_is():
    rows = [{"step": s, "loss/total": 5 / s, "tokens/sec": 100.0} for s in range(1, 30)]
    pictures = curves.draw(rows)
    assert len(pictures) == 2 and all(picture.startswith("<svg") for picture in pictures)
    assert curves.draw([]) == []
