"""What a run counts of its batches."""

import types

import numpy as np

from data_pipelines.loader import Loaded
from data_pipelines.media_error import MediaError, Skipped
from ivx.training.meter import Meter
from ivx.training.phases import Phases


def test_samples_that_were_left_out_are_counted_by_cause_since_the_start(capsys):
    """Tokens and frames since the last reading."""
    meter = Meter(Phases(), seen=1000)
    batch = types.SimpleNamespace(segments=np.array([[1, 1, 2, 0]]))
    causes = ("damaged", "frame size", "damaged")
    skipped = tuple(Skipped.by(MediaError(f"{c}.mp4: bad", c), "x") for c in causes)
    meter.count(Loaded(batch, skipped, frames=8))
    first = meter.read()
    meter.count(Loaded(batch, ()))
    second = meter.read()
    for numbers in (first, second):
        assert numbers["data/skipped_samples"] == meter.skipped == 3
        assert numbers["data/skipped_samples/damaged"] == 2
        assert numbers["data/skipped_samples/frame_size"] == 1
    assert (first["tokens/seen"], second["tokens/seen"]) == (1003, 1006)
    assert first["frames/sec"] > 0 == second["frames/sec"]
    assert "skipped sample x: frame size.mp4: bad" in "".join(capsys.readouterr())
