"""The model: vision tower, mergers, and a decoder with latent or grouped attention."""
