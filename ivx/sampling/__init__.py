"""Generation: prefill of full prompts, then decoding one token at a time from a cache."""
