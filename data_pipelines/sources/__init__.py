"""Sources of samples: mixtures of annotation files in several formats."""

from data_pipelines.annotation_error import AnnotationError, Fault
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.sources.messages import parse_sample
from data_pipelines.sources.mixture import (
    DataSet,
    data_set_names,
    epoch_indices,
    prepared_folders,
    read_mixture,
)
from data_pipelines.sources.overrides import Overrides
from data_pipelines.sources.reading import ReadResult, read, read_faultless, read_samples
from data_pipelines.sources.sample import Sample

__all__ = [
    "AnnotationError",
    "DataSet",
    "Fault",
    "ImageRef",
    "Overrides",
    "ReadResult",
    "Sample",
    "VideoRef",
    "data_set_names",
    "epoch_indices",
    "parse_sample",
    "prepared_folders",
    "read",
    "read_faultless",
    "read_mixture",
    "read_samples",
]
