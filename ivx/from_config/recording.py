"""Records what the data sets of a run are while its stage reads them."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from data_pipelines import bin_packing, data_record, sources
from data_pipelines.layout import LayoutRule

Records = dict[str, dict[str, Any]]

_current: contextvars.ContextVar[Records | None] = contextvars.ContextVar("records", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Records]:
    """Collects a record of every data set that is read and measured within it, by name."""
    records: Records = {}
    token = _current.set(records)
    try:
        yield records
    finally:
        _current.reset(token)


def add(
    data_set: sources.DataSet,
    files: tuple[data_record.FileRecord, ...],
    sizes: bin_packing.Sizes,
    rule: LayoutRule,
) -> None:
    """Records a data set, if records are being collected.

    Args:
      data_set: its entry of the mixture.
      files: what its files were.
      sizes: of its samples that fit.
      rule: by which they were laid out.
    """
    if (records := _current.get()) is None:
        return
    settings = {
        "sample_ratio": data_set.sample_ratio,
        "format": data_set.format,
        "fields": data_set.fields or None,
        "media_suffix": data_set.media_suffix,
        "tfds": data_set.tfds or None,
        "split": data_set.split or None,
        "overrides": data_set.overrides.to_dict() if data_set.overrides else None,
        "tokenizer": rule.tokenizer.fingerprint,
    }
    # A stage may read a data set twice, as when it validates on what it trains on.
    name, number = data_set.name, 1
    while name in records:
        number += 1
        name = f"{data_set.name} ({number})"
    records[name] = data_record.of(
        files, settings, len(sizes), (sizes.tokens, sizes.runs, sizes.bounds)
    )
