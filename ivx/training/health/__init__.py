"""Monitoring of a run: hangs, bad steps, host failures, preemption, profiles."""
