"""Evaluation: questions put to a model, answers read, scores by family."""
