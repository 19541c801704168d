"""The report of a recipe: the record of each stage, scores and aims, and the page."""
