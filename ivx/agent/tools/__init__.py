"""The tools of the agent, a file each."""
