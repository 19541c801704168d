"""`ivx compile`: compiles a training step for TPUs without a TPU, and reports memory and time."""
