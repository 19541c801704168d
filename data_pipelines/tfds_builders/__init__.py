"""Builders of data sets of TFDS, written as ArrayRecord; each file needs the extra `tfds`."""
