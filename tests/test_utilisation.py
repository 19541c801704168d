"""Model FLOPs utilisation: FLOPs of a batch and peaks of devices; the window of the profiler."""

import dataclasses
import types
from unittest import mock

import jax
import numpy as np
import pytest

from data_pipelines.batch import Batch
from ivx.aot.chips import CHIPS
from ivx.models import flop_counts, spec
from ivx.training import utilisation
from ivx.training.health import profiler


def batch(segments, slices) -> Batch:
    """A batch with these two fields only."""
    names = [field.name for field in dataclasses.fields(Batch)]
    fields = dict.fromkeys(names) | {
        "slice_block": 48,
        "segments": np.array(segments),
        "slices": np.array(slices),
    }
    return Batch(**fields)


def test_useful_flops_equal_formula():
    """Samples of 3 and 2 tokens, and of 4; slices of 4 and 8 patches; zeros are padding."""
    tiny = spec.tiny("m2la")
    flops = utilisation.useful(
        tiny, batch([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]], [[1] * 4 + [2] * 8, [0] * 12])
    )
    # 6 + 3 + 10 pairs; a patch attends to (4 * 4 + 8 * 8) / 12 patches on average.
    parts = flop_counts.forward(tiny, 9, 19, 12, 80 / 12)
    assert flops == 3 * sum(parts.values()) > 0


def test_other_batches_have_no_flops():
    assert utilisation.useful(spec.tiny("m2la"), types.SimpleNamespace(segments=[[1]])) is None


def test_peak_is_known_for_tpus_only():
    assert (
        utilisation.peak(mock.Mock(spec=jax.Device, device_kind="TPU v6 lite")) == CHIPS["v6e"].peak
    )
    assert utilisation.peak(jax.devices("cpu")[0]) is None


@pytest.mark.parametrize("text", ["5", "5:5", "7:3", "a:b", "-1:4", "1:2:3"])
def test_invalid_profile_window_is_refused(text):
    with pytest.raises(ValueError):
        profiler.window(text)


def test_profile_window_is_parsed():
    assert profiler.window("") is None
    assert profiler.window("100:110") == (100, 110)
