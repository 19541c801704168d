"""The synthetic world (`ivx data synthesize`) as a data set of TFDS, its clips in the records.

ivx_synthetic/1.0.0 has a split for each data set of the mixture, synthetic_ left out of its name.
"""

import json
import pathlib

import tensorflow_datasets as tfds

from data_pipelines import sources
from data_pipelines.annotation_error import AnnotationError
from data_pipelines.tfds_builders import features

_PREFIX = "synthetic_"


class IvxSynthetic(tfds.core.GeneratorBasedBuilder):
    """Clips of coloured shapes with questions.

    Args:
      source: folder that `ivx data synthesize` wrote.
      more: as of every builder: data_dir.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: str = "", **more):
        self._source = pathlib.Path(source)
        super().__init__(**more)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.info(self, "Clips of moving coloured shapes, with questions and answers.")

    def _split_generators(self, dl_manager) -> dict[str, features.Examples]:
        del dl_manager
        mixture = self._source / "data.json"
        names = tuple(sources.data_set_names(mixture))
        return {
            member.name.removeprefix(_PREFIX): self._generate_examples(member)
            for member in sources.read_mixture(mixture, names)
        }

    def _generate_examples(self, member: sources.DataSet) -> features.Examples:
        for file in member.annotations:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                record = json.loads(line)
                sample = sources.sample(record, f"{file}:{number}", member.media_root)
                media = {}
                for ref in (*sample.videos, *sample.images):
                    path = pathlib.Path(ref.path)
                    media[str(path.relative_to(member.media_root))] = path.read_bytes()
                yield sample.id, features.example(line, media)


def build(source: pathlib.Path, out: pathlib.Path) -> dict[str, int]:
    """Writes the data set; returns the records of each split.

    Raises:
      AnnotationError: `source` holds no synthetic data.
    """
    if not (source / "data.json").is_file():
        raise AnnotationError(f"{source} holds no data.json; `ivx data synthesize` writes one")
    return features.prepare(IvxSynthetic(source=str(source), data_dir=str(out)))
