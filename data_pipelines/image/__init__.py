"""Decoding of still images."""
