"""Static schedules of the Pallas kernels."""
