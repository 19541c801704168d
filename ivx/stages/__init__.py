"""The stages of the recipe: where their batches come from, their losses, and what they train."""
