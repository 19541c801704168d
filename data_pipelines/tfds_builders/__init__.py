"""TFDS dataset builders that write ArrayRecord files; every module needs the extra `tfds`."""
