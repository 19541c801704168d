"""A labelled world of coloured shapes, made to order: real mp4 files whose answers are known by construction."""
