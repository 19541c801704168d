"""Counts of a run's batches."""

import types

import numpy as np

from data_pipelines.loader import LoadedBatch
from data_pipelines.media_error import MediaError, SkippedSample
from ivx.training.health.phases import Phases
from ivx.training.meter import Meter


def test_skipped_samples_are_counted_by_cause(capsys):
    """Skipped samples count since the start, speeds since the last read."""
    meter = Meter(Phases(), seen=1000)
    batch = types.SimpleNamespace(segments=np.array([[1, 1, 2, 0]]))
    causes = ("damaged", "frame size", "damaged")
    skipped = tuple(SkippedSample.from_error(MediaError(f"{c}.mp4: bad", c), "x") for c in causes)
    meter.count(LoadedBatch(batch, skipped, frames=8))
    first = meter.read()
    meter.count(LoadedBatch(batch, ()))
    second = meter.read()
    for metrics in (first, second):
        assert metrics["data/skipped_samples"] == meter.skipped == 3
        assert metrics["data/skipped_samples/damaged"] == 2
        assert metrics["data/skipped_samples/frame_size"] == 1
    assert (first["tokens/seen"], second["tokens/seen"]) == (1003, 1006)
    assert first["frames/sec"] > 0 == second["frames/sec"]
    assert "skipped sample x: frame size.mp4: bad" in "".join(capsys.readouterr())
