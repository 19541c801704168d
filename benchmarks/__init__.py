"""Benchmarks of ivx, run from a checkout by `python -m benchmarks NAME`."""
