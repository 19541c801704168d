"""Several processes on one machine that train together, as hosts of a pod do."""
