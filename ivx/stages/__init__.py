"""Training stages: what differs between them, and nothing else."""
