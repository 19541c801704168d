"""Video files to patches: frame sampling, decoding, resizing, patch order and positions."""
