"""HTML pages of a run, an episode, a mixture and a recipe; each is one self-contained file."""
