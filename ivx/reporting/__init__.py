"""The report of a run: one HTML file with curves, scores and what the model saw and said."""
