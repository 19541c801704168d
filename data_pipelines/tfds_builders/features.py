"""Features, examples and preparation shared by the builders; `tfds_records` reads the result."""

from collections.abc import Iterator, Mapping

import tensorflow_datasets as tfds

FORMAT = "array_record"

Examples = Iterator[tuple[str, dict]]


def info(builder: tfds.core.DatasetBuilder, description: str) -> tfds.core.DatasetInfo:
    """Returns the dataset info with the features `sample` and `media`."""
    # Text features hold arbitrary bytes, including mp4. Video and image features would call
    # TensorFlow.
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
    """Returns an example: an annotation as JSON, and its files by url."""
    return {
        "sample": sample,
        "media": [{"url": url, "data": data} for url, data in (media or {}).items()],
    }


def prepare(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    """Writes a data set unless it exists; returns the number of records in each split."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config, file_format=FORMAT)
    return {name: split.num_examples for name, split in builder.info.splits.items()}
