"""Experiments: one config file a stage, with the presets `tiny` and `8b`."""
