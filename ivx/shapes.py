"""The dimension letters used in docstrings, in names such as `q_btnh`, and in einsum equations.

B   batch (packs, or sequences when sampling)
T   query length, tokens of a pack
S   key length, entries of a cache
D   width of the text model (of the vision tower, in its own files)
N   attention heads
K   key-value heads (grouped attention)
H   head width: keys without rope, or values
R   rank of the key-value latent
P   width of the rope part of a key
E   width of a latent cache entry, R + P
F   width of the feed-forward layer
V   vocabulary
L   layers
X   patches of a pack
G   merged patch groups of a pack, X / 4
J   taps of the vision tower (DeepStack)
F_  frames
"""
