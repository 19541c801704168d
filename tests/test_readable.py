"""A run over media that cannot be read ends, instead of training on empty batches."""

import itertools

import pytest

from data_pipelines.loader import LoadedBatch
from data_pipelines.media_error import MediaError, SkippedSample
from ivx.errors import UserError
from ivx.stages import readable

GONE = LoadedBatch(None, (SkippedSample.from_error(MediaError("a.mp4: no such file"), "a"),))
READ = LoadedBatch(None, (), samples=("b",))
PARTLY = LoadedBatch(None, GONE.skipped, samples=("b",))


@pytest.mark.parametrize("count, read", [(100, 2), (2, 1), (1, 0)])
def test_first_batches_without_a_sample_end_the_run(count, read):
    batches = readable.with_samples(iter([GONE] * count), count)
    assert len(list(itertools.islice(batches, read))) == read
    with pytest.raises(
        UserError, match=r"for example, sample a: a\.mp4: no such file.*ivx data check"
    ):
        next(batches)


def test_batches_that_lose_their_samples_now_and_then_are_kept():
    batches = [GONE, GONE, PARTLY, *[GONE] * 99, READ, *[GONE] * 99]
    assert len(list(readable.with_samples(iter(batches), len(batches)))) == len(batches)


def test_storage_that_is_gone_later_ends_the_run():
    batches = readable.with_samples(iter([READ, *[GONE] * 200]), 201)
    assert len(list(itertools.islice(batches, 100))) == 100
    with pytest.raises(UserError, match="last 100 batches"):
        next(batches)
