"""Folders in the format of Hugging Face: reading them, writing them."""
