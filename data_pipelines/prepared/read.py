"""Reading what was prepared: samples one by one by number, sizes all at once."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines import filling, packing, plan, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import shards, write


class PreparedSamples(Sequence):
    """The samples of a prepared data set, read when they are asked for.

    Little is held in memory, and nothing open goes along to another process.

    Args:
      folder: of the data set, which has the manifest.

    Raises:
      AnnotationError: the folder is of another version of the format, or a shard is missing.
    """

    def __init__(self, folder: pathlib.Path):
        manifest = json.loads((folder / write.MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("version") != write.VERSION:
            raise sources.AnnotationError(
                f"{folder} was prepared in version {manifest.get('version')} of the format, this"
                f" ivx reads {write.VERSION}; prepare it again"
            )
        self._files = [str(folder / shard["file"]) for shard in manifest["shards"]]
        missing = [file for file in self._files if not pathlib.Path(file).is_file()]
        if missing:
            raise sources.AnnotationError(f"{missing[0]} is missing; prepare the data again")
        self._bounds = np.cumsum([0] + [shard["records"] for shard in manifest["shards"]])
        self._folder = folder
        self.left_out: list[str] = manifest["left_out"]
        self.rule: dict = manifest["rule"]

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, number: int) -> sources.Sample:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        shard = int(np.searchsorted(self._bounds, number, side="right")) - 1
        file = self._files[shard]
        record = json.loads(shards.record(file, int(number - self._bounds[shard])))
        return sources.sample(record, file, self._folder.parent)

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


def is_prepared(data_set: sources.DataSet) -> bool:
    """Whether a data set of a mixture is a prepared folder."""
    return (data_set.annotations[0] / write.MANIFEST).is_file()


def measure(samples: PreparedSamples, rule: LayoutRule, shape: packing.PackShape) -> plan.Measured:
    """As `plan.measure`, from the stored sizes if they were made by the same rule."""
    if samples.rule != write.rule_facts(rule):
        measured = plan.measure(samples, rule, shape)
        return plan.Measured(measured.samples, measured.sizes, samples.left_out + measured.dropped)
    sizes, trained = samples.table()
    fits, dropped = [], list(samples.left_out)
    for number, size in enumerate(sizes):
        reason = packing.misfit(size, shape)
        if reason or not trained[number]:
            reason = reason or "no text to train on"
            dropped.append(f"sample {samples[number].id}: {reason}")
        else:
            fits.append(number)
    fits = np.array(fits, np.int64)
    return plan.Measured(_Chosen(samples, fits), sizes.take(fits), dropped)
