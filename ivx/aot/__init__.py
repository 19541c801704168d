"""Compiling for TPUs without one: libtpu on a CPU, and what its compiler tells."""
