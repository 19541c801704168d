"""What every data set of TFDS built here has, as `data_pipelines.tfds_records` reads it."""

from collections.abc import Iterator, Mapping

import tensorflow_datasets as tfds

FORMAT = "array_record"


def info(builder: tfds.core.DatasetBuilder, description: str) -> tfds.core.DatasetInfo:
    """The two features, and what the data set is."""
    # Text holds any bytes, mp4 too; features of videos and images would call TensorFlow.
    features = tfds.features.FeaturesDict(
        {
            "sample": tfds.features.Text(),
            "media": tfds.features.Sequence(
                {"url": tfds.features.Text(), "data": tfds.features.Text()}
            ),
        }
    )
    return tfds.core.DatasetInfo(builder=builder, description=description, features=features)


def example(sample: str, media: Mapping[str, bytes] | None = None) -> dict:
    """A record: an annotation as JSON, and files that go with it by url."""
    return {
        "sample": sample,
        "media": [{"url": url, "data": data} for url, data in (media or {}).items()],
    }


def prepare(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    """Writes a data set, unless it is there already; returns the records of each split."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config, file_format=FORMAT)
    return {name: split.num_examples for name, split in builder.info.splits.items()}


Examples = Iterator[tuple[str, dict]]
