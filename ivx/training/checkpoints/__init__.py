"""Checkpoints: saving, restoring, and verifying what was restored."""
