"""Several processes on one machine that train together like the hosts of a pod."""
