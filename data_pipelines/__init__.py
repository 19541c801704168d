"""Data pipelines: videos, images and annotations to packed batches.

Start with `loader.py`. The only part of `ivx` that this package imports is `ivx.text`.
"""
