"""The released long-video data set of InternVideo3 (yanziang/InternVideo3_Dataset) for TFDS.

It comes as rows of video ids with questions and answers, without videos, and the names of its
columns are not published: the builder's config names them. Rows whose video is not under
`media_root` are left out and counted; videos stay where they are, and are found there by the
mixture's media_root.

    ivx_internvideo3/<config>/1.0.0    one split, train
"""

import dataclasses
import json
import pathlib

import tensorflow_datasets as tfds
from absl import logging

from data_pipelines import sources
from data_pipelines.annotation_error import AnnotationError, Fault
from data_pipelines.formats import internvideo3
from data_pipelines.sources.entries import entries
from data_pipelines.tfds_builders import features


@dataclasses.dataclass(kw_only=True)
class Columns(tfds.core.BuilderConfig):
    """Which file is read, and what its columns are called.

    Attributes:
      annotation: a .jsonl, .json or .parquet file of rows.
      media_root: folder of the videos, <id><media_suffix> each.
      fields: names of columns, see `data_pipelines.formats.internvideo3`.
      media_suffix: of the videos.
    """

    annotation: str
    media_root: str
    fields: dict[str, str]
    media_suffix: str = ".mp4"


@dataclasses.dataclass
class Left:
    """How many questions were left out while building: without video, or unusable."""

    missing: int = 0
    unusable: int = 0


class IvxInternvideo3(tfds.core.GeneratorBasedBuilder):
    """Questions about long videos; `left` counts what was left out of the last build."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **more):
        self.left = Left()
        super().__init__(**more)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.info(self, "Questions about long videos, InternVideo3's training data.")

    def _split_generators(self, dl_manager) -> dict[str, features.Examples]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> features.Examples:
        columns, root = self.builder_config, pathlib.Path(self.builder_config.media_root)
        rows = sources.DataSet("rows", (pathlib.Path(columns.annotation),), root, 1.0)
        for number, row in enumerate(entries(rows)):
            try:
                if isinstance(row, Fault):
                    raise AnnotationError(row.sentence, row.cause)
                found = internvideo3.convert(
                    row.value, row.where, columns.fields, columns.media_suffix
                )
                found = [(one, sources.sample(one, row.where, root)) for one in found]
            except AnnotationError as error:
                self.left.unusable += 1
                logging.warning("left out %s", error)
                continue
            for place, (record, sample) in enumerate(found):
                if not pathlib.Path(sample.videos[0].path).is_file():
                    self.left.missing += 1
                    continue
                yield f"{number}-{place}", features.example(json.dumps(record))


def build(columns: Columns, out: pathlib.Path) -> tuple[dict[str, int], Left]:
    """Writes the data set; returns the records of each split, and what was left out.

    Raises:
      AnnotationError: the columns are not named, the file is not there or holds no usable row.
    """
    internvideo3.check(columns.fields, "builder config")
    if not pathlib.Path(columns.annotation).is_file():
        raise AnnotationError(f"no annotation at {columns.annotation}")
    builder = IvxInternvideo3(config=columns, data_dir=str(out))
    return features.prepare(builder), builder.left
