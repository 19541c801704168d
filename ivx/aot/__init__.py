"""Ahead-of-time compilation for TPUs with libtpu on a CPU, and estimates from its output."""
