"""Annotation formats: each converts an entry of a file to annotations of the message format."""

from data_pipelines.formats.registry import FORMATS, MESSAGES

__all__ = ["FORMATS", "MESSAGES"]
