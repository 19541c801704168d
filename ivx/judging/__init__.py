"""Judging answers: one parser for evaluation and rewards."""
