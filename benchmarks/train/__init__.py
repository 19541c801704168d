"""A training step, compared with transformers."""
