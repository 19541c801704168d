"""From a video file to patches: frame sampling, decoding, resizing, patch order, positions."""
