"""Where samples come from: mixtures of annotation files in several formats, media anywhere."""

from data_pipelines.annotation_error import AnnotationError, Fault
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.sources.messages import sample, span_outside
from data_pipelines.sources.mixture import (
    DataSet,
    data_set_names,
    prepared_folders,
    read_mixture,
    repeats,
)
from data_pipelines.sources.reading import Found, read, read_samples
from data_pipelines.sources.sample import Overrides, Sample

__all__ = [
    "AnnotationError",
    "DataSet",
    "Fault",
    "Found",
    "ImageRef",
    "Overrides",
    "Sample",
    "VideoRef",
    "data_set_names",
    "prepared_folders",
    "read",
    "read_mixture",
    "read_samples",
    "repeats",
    "sample",
    "span_outside",
]
