"""Evaluation: answering the questions of data sets, scoring answers, and comparing models."""
