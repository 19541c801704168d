"""The tools of the agent, one per file."""
