"""Useful FLOPs of a batch are those of the formula; a peak is known of TPUs and of nothing else."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from data_pipelines.batch import Batch
from ivx.aot.chips import CHIPS
from ivx.models import spec, work
from ivx.training import profiler, utilisation


def batch(segments, slices) -> Batch:
    """A batch of which only these are looked at."""
    names = [field.name for field in dataclasses.fields(Batch)]
    given = dict.fromkeys(names) | {"segments": np.array(segments), "slices": np.array(slices)}
    return Batch(**given)


def test_by_hand():
    """Samples of 3 and 2 tokens, and of 4; slices of 4 and 8 patches; zeros are padding."""
    tiny = spec.tiny("m2la")
    found = utilisation.useful(
        tiny, batch([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]], [[1] * 4 + [2] * 8, [0] * 12])
    )
    # 6 + 3 + 10 pairs; (4 * 4 + 8 * 8) / 12 patches seen by the mean patch.
    parts = work.forward(tiny, 9, 19, 12, 80 / 12)
    assert found == 3 * sum(parts.values()) > 0


def test_what_is_no_pack_of_samples_has_none():
    assert utilisation.useful(spec.tiny("m2la"), types.SimpleNamespace(segments=[[1]])) is None


def test_peaks_are_those_of_the_chips():
    assert utilisation.peak(types.SimpleNamespace(device_kind="TPU v6 lite")) == CHIPS["v6e"].peak
    assert utilisation.peak(jax.devices("cpu")[0]) is None


@pytest.mark.parametrize("text", ["5", "5:5", "7:3", "a:b", "-1:4", "1:2:3"])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(ValueError):
        profiler.window(text)


def test_a_window_of_steps():
    assert profiler.window("") is None
    assert profiler.window("100:110") == (100, 110)
