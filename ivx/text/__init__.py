"""Everything textual: tokenizer, chat template, thoughts, tool calls and agent prompts."""
