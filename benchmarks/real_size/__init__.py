"""Commands on a model of real size: memory and time beside their limits."""
