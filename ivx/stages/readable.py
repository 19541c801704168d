"""Ends a run whose media cannot be read, which would otherwise train on empty batches.

A sample that cannot be read is skipped, and a batch may lose all of its samples. If that happens to
every batch, the media are elsewhere, or their storage is gone, and no step does any good.
"""

from collections.abc import Iterator

from data_pipelines.loader import LoadedBatch
from ivx.errors import UserError

# Consecutive batches without a sample: at the start, and after a batch with one.
FIRST, LATER = 3, 100


def with_samples(batches: Iterator[LoadedBatch], count: int) -> Iterator[LoadedBatch]:
    """Yields `batches`, some of which may have lost their samples, but not too many in a row.

    Args:
      batches: of one host.
      count: how many there are.

    Raises:
      UserError: the first `FIRST` batches, or all if they are fewer, lost every sample, or `LATER`
        in a row did after a batch with one.
    """
    patience, empty = min(FIRST, count), 0
    for loaded in batches:
        if loaded.samples or not loaded.skipped:
            patience, empty = LATER, 0
        else:
            empty += 1
        if empty and empty >= patience:
            raise UserError(
                f"no sample of the last {empty} batches could be read; for example,"
                f" {loaded.skipped[0]}; check that the media are where the mixture says, with"
                " `ivx data check`"
            )
        yield loaded
