"""Every stage of 8b, compiled for pods."""
