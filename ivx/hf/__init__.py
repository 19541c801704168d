"""Model folders in the Hugging Face format: reading and writing."""
