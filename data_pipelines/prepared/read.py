"""Reads prepared data: samples one at a time by number, and the sizes of all samples at once."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines import bin_packing, packing, plan, sources
from data_pipelines.annotation_error import AnnotationError
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import manifest, shards, summary


class PreparedSamples(Sequence):
    """The samples of a prepared data set, read on access.

    Holds little memory and pickles without open files.

    Args:
      folder: of the data set; it contains the manifest.
      overrides: of the mixture; they take precedence over the stored ones.

    Attributes:
      left_out: sentences for samples skipped by the preparation.
      faults: sentences for annotations that could not be used.
      files: what the shards are, by the checksums of the manifest.

    Raises:
      AnnotationError: the folder has another format version, or a shard is missing.
    """

    def __init__(self, folder: pathlib.Path, overrides: sources.Overrides | None = None) -> None:
        content = manifest.read(folder)
        self._files = [str(file) for file in manifest.shards(folder, content)]
        self._bounds = np.cumsum([0] + [shard["records"] for shard in content["shards"]])
        self._folder, self._overrides = folder, overrides
        self.left_out: list[str] = content["left_out"]
        self.faults: list[str] = content["faults"]
        self.files = manifest.records(folder, content)
        self._rule: dict = content["rule"]

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, number: int | slice) -> sources.Sample | list[sources.Sample]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        shard = int(np.searchsorted(self._bounds, number, side="right")) - 1
        file = self._files[shard]
        index = int(number - self._bounds[shard])
        try:
            record = json.loads(shards.record(file, index))
        except (MediaError, ValueError) as error:
            raise AnnotationError(f"{file}: record {index} is damaged ({error})") from error
        return sources.parse_sample(record, file, self._folder.parent, overrides=self._overrides)

    def has_sizes_for(self, rule: LayoutRule) -> bool:
        """Whether the stored sizes were computed with `rule`."""
        return self._overrides is None and self._rule == summary.rule_fields(rule)

    def sizes(self) -> tuple[bin_packing.Sizes, np.ndarray]:
        """Stored sizes, and the number of trained tokens of each sample, int64 [n]."""
        columns = [
            shards.read_columns(pathlib.Path(file.removesuffix(shards.RECORDS)))
            for file in self._files
        ]
        sizes = bin_packing.Sizes.join(
            [
                bin_packing.Sizes(
                    part["tokens"].astype(np.int64),
                    np.stack([part["grids"][:, :2].prod(1), part["grids"][:, 2]], 1).astype(int),
                    part["bounds"],
                )
                for part in columns
            ]
        )
        return sizes, np.concatenate([part["trained"] for part in columns])


class _Subset(Sequence):
    """Samples selected by number."""

    def __init__(self, samples: PreparedSamples, numbers: np.ndarray) -> None:
        self._samples, self._numbers = samples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> sources.Sample:
        return self._samples[int(self._numbers[number])]


def measure(
    samples: PreparedSamples, rule: LayoutRule, shape: packing.PackShape
) -> plan.MeasuredSamples:
    """Like `plan.measure`, but uses the stored sizes if they were computed with the same rule."""
    if not samples.has_sizes_for(rule):
        measured = plan.measure(samples, rule, shape)
        return dataclasses.replace(measured, dropped=samples.left_out + measured.dropped)
    sizes, trained = samples.sizes()
    fits, dropped, tokens = [], list(samples.left_out), 0
    for number, size in enumerate(sizes):
        reason = packing.misfit(size, shape)
        if reason or not trained[number]:
            reason = reason or "no text to train on"
            dropped.append(f"sample {samples[number].id}: {reason}")
            tokens += size.tokens
        else:
            fits.append(number)
    fits = np.array(fits, np.int64)
    return plan.MeasuredSamples(_Subset(samples, fits), sizes.take(fits), dropped, tokens)
