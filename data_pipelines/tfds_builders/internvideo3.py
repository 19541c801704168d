"""TFDS builder for InternVideo3's released long-video data set (yanziang/InternVideo3_Dataset).

The release has rows of video ids with questions and answers, without videos. Its column names are
not published, so the builder config names them. Rows whose video is not under `media_root` are
skipped and counted. Videos stay where they are, and the mixture's media_root locates them.

    ivx_internvideo3/<config>/1.0.0    one split, train
"""

import dataclasses
import json
import pathlib
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from data_pipelines import sources
from data_pipelines.annotation_error import AnnotationError, Fault
from data_pipelines.formats import internvideo3
from data_pipelines.sources.entries import entries
from data_pipelines.tfds_builders import features


@dataclasses.dataclass(kw_only=True)
class Columns(tfds.core.BuilderConfig):
    """The annotation file and the names of its columns.

    Attributes:
      annotation: a .jsonl, .json or .parquet file of rows.
      media_root: folder of the videos, named <id><media_suffix>.
      fields: column names, see `data_pipelines.formats.internvideo3`.
      media_suffix: file suffix of the videos.
    """

    annotation: str
    media_root: str
    fields: dict[str, str]
    media_suffix: str = ".mp4"


@dataclasses.dataclass
class SkipCounts:
    """What a build skipped.

    Attributes:
      missing: questions whose video is missing.
      unusable: rows that cannot be used.
    """

    missing: int = 0
    unusable: int = 0


class IvxInternvideo3(tfds.core.GeneratorBasedBuilder):
    """Questions about long videos.

    Attributes:
      skipped: counts of the last build.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any) -> None:
        self.skipped = SkipCounts()
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.info(self, "Questions about long videos, InternVideo3's training data.")

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, features.Examples]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> features.Examples:
        columns, root = self.builder_config, pathlib.Path(self.builder_config.media_root)
        rows = sources.DataSet("rows", (pathlib.Path(columns.annotation),), root, 1.0)
        for row_number, row in enumerate(entries(rows)):
            try:
                if isinstance(row, Fault):
                    raise AnnotationError(row.sentence, row.cause)
                records = internvideo3.convert(
                    row.value, row.where, columns.fields, columns.media_suffix
                )
            except AnnotationError as error:
                records = [error]
            for number, record in enumerate(records):
                try:
                    if isinstance(record, AnnotationError):
                        raise record
                    sample = sources.parse_sample(record, row.where, root)
                except AnnotationError as error:
                    self.skipped.unusable += 1
                    logging.warning("left out %s", error)
                    continue
                if not pathlib.Path(sample.videos[0].path).is_file():
                    self.skipped.missing += 1
                    continue
                yield f"{row_number}-{number}", features.example(json.dumps(record))


def build(columns: Columns, out: pathlib.Path) -> tuple[dict[str, int], SkipCounts]:
    """Writes the data set.

    Args:
      columns: the annotation file and its columns.
      out: the TFDS data_dir.

    Returns:
      The number of records in each split, and what was skipped.

    Raises:
      AnnotationError: columns are not named, or the file is missing or has no usable row.
    """
    internvideo3.check(columns.fields, "builder config")
    if not pathlib.Path(columns.annotation).is_file():
        raise AnnotationError(f"no annotation file at {columns.annotation}")
    builder = IvxInternvideo3(config=columns, data_dir=str(out))
    return features.prepare(builder), builder.skipped
