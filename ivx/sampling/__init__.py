"""Generation: prefill of whole prompts, then one token at a time from a cache."""
