"""The support matrix."""
