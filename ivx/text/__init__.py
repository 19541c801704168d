"""Text in and out of the model: tokenizer and chat template."""
