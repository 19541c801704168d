"""A labelled world of coloured shapes: real mp4 files whose answers are known by construction."""
