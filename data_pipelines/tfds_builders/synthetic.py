"""TFDS builder for the synthetic data of `ivx data synthesize`; records contain the clips.

ivx_synthetic/1.0.0 has a split for each data set of the mixture, without the prefix synthetic_.
"""

import json
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines import sources
from data_pipelines.annotation_error import AnnotationError
from data_pipelines.tfds_builders import features

_PREFIX = "synthetic_"


class IvxSynthetic(tfds.core.GeneratorBasedBuilder):
    """Clips of coloured shapes with questions.

    Args:
      source: the folder written by `ivx data synthesize`.
      kwargs: arguments of every builder, such as data_dir.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: str = "", **kwargs: Any) -> None:
        self._source = pathlib.Path(source)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.info(self, "Clips of moving coloured shapes, with questions and answers.")

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, features.Examples]:
        del dl_manager
        mixture = self._source / "data.json"
        names = tuple(sources.data_set_names(mixture))
        return {
            data_set.name.removeprefix(_PREFIX): self._generate_examples(data_set)
            for data_set in sources.read_mixture(mixture, names)
        }

    def _generate_examples(self, data_set: sources.DataSet) -> features.Examples:
        for file in data_set.annotations:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                record = json.loads(line)
                sample = sources.parse_sample(record, f"{file}:{number}", data_set.media_root)
                media = {}
                for ref in (*sample.videos, *sample.images):
                    path = pathlib.Path(ref.path)
                    media[str(path.relative_to(data_set.media_root))] = path.read_bytes()
                yield sample.id, features.example(line, media)


def build(source: pathlib.Path, out: pathlib.Path) -> dict[str, int]:
    """Writes the data set; returns the number of records in each split.

    Raises:
      AnnotationError: `source` contains no mixture file.
    """
    if not (source / "data.json").is_file():
        raise AnnotationError(
            f"{source} contains no data.json; write one with `ivx data synthesize`"
        )
    return features.prepare(IvxSynthetic(source=str(source), data_dir=str(out)))
