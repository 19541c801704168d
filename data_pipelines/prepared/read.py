"""Reading what was prepared: samples one by one by number, sizes all at once."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines import filling, packing, plan, sources
from data_pipelines.annotation_error import AnnotationError
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import manifest, shards, write


class PreparedSamples(Sequence):
    """The samples of a prepared data set, read when they are asked for.

    Little is held in memory, and nothing open goes along to another process.

    Args:
      folder: of the data set, which has the manifest.
      overrides: of the mixture; they come before those that were stored.

    Raises:
      AnnotationError: the folder is of another version of the format, or a shard is missing.
    """

    def __init__(self, folder: pathlib.Path, overrides: sources.Overrides | None = None):
        found = manifest.read(folder)
        self._files = [str(file) for file in manifest.shards(folder, found)]
        self._bounds = np.cumsum([0] + [shard["records"] for shard in found["shards"]])
        self._folder, self._overrides = folder, overrides
        self.left_out: list[str] = found["left_out"]
        self.faults: list[str] = found["faults"]
        self._rule: dict = found["rule"]

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, number: int | slice) -> sources.Sample | list[sources.Sample]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        shard = int(np.searchsorted(self._bounds, number, side="right")) - 1
        file = self._files[shard]
        place = int(number - self._bounds[shard])
        try:
            record = json.loads(shards.record(file, place))
        except (MediaError, ValueError) as error:
            raise AnnotationError(f"{file}: record {place} is damaged ({error})") from error
        return sources.sample(record, file, self._folder.parent, overrides=self._overrides)

    def laid_out_by(self, rule: LayoutRule) -> bool:
        """Whether the stored sizes are those that `rule` gives."""
        return self._overrides is None and self._rule == write.rule_facts(rule)

    def table(self) -> tuple[filling.Sizes, np.ndarray]:
        """Sizes, and how many tokens of each sample bear loss, int64 [n]."""
        parts = [
            shards.read_columns(pathlib.Path(file.removesuffix(shards.RECORDS)))
            for file in self._files
        ]
        sizes = filling.Sizes.join(
            [
                filling.Sizes(
                    part["tokens"].astype(np.int64),
                    np.stack([part["grids"][:, :2].prod(1), part["grids"][:, 2]], 1).astype(int),
                    part["bounds"],
                )
                for part in parts
            ]
        )
        return sizes, np.concatenate([part["trained"] for part in parts])


class _Chosen(Sequence):
    """Some of the samples, by their numbers."""

    def __init__(self, samples: PreparedSamples, numbers: np.ndarray):
        self._samples, self._numbers = samples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> sources.Sample:
        return self._samples[int(self._numbers[number])]


def measure(samples: PreparedSamples, rule: LayoutRule, shape: packing.PackShape) -> plan.Measured:
    """As `plan.measure`, from the stored sizes if they were made by the same rule."""
    if not samples.laid_out_by(rule):
        measured = plan.measure(samples, rule, shape)
        return dataclasses.replace(measured, dropped=samples.left_out + measured.dropped)
    sizes, trained = samples.table()
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
    return plan.Measured(_Chosen(samples, fits), sizes.take(fits), dropped, tokens)
