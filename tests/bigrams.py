"""The least model of words: what follows a token depends on that token alone.

For what stages and steps do with the losses of any model; it compiles in a second.
"""

import jax.numpy as jnp
import numpy as np

from ivx.models.model import Output

VOCAB, WIDTH = 768, 16


class Bigrams:
    """A definition, as far as a stage or a step looks at it."""

    def init(self, seed: int) -> dict:
        rng = np.random.default_rng(seed)
        shapes = {"embedding": (VOCAB, WIDTH), "head": (WIDTH, VOCAB)}
        return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}

    def bind(self, params: dict) -> "_Bound":
        return _Bound(params)


class _Bound:
    """The model with its parameters."""

    def __init__(self, params: dict):
        self._params = params

    def __call__(self, batch) -> Output:
        return Output(self._params["embedding"][batch.tokens], None)

    def head(self):
        return self._params["head"]
