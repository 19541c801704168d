"""The model: vision tower, mergers, decoder with latent or grouped attention."""
