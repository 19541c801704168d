"""The training loop, its step, and the parts of both."""
