"""The loss of each conversion method."""
