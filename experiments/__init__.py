"""Experiments: one config file per stage, with presets such as `tiny` and `8b`."""
