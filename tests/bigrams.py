"""A bigram model: the next token depends only on the current token.

It compiles in a second, for tests of stages and steps that work with any model.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ivx.models.definition import ModelDefinition
from ivx.models.model import Output, VideoLanguageModel

VOCAB, WIDTH = 768, 16


class Bigrams(ModelDefinition):
    """The parts of a `ModelDefinition` that stages and steps use."""

    def __init__(self) -> None:
        """Has neither sizes nor a graph."""

    def init(self, seed: int) -> dict:
        rng = np.random.default_rng(seed)
        shapes = {"embedding": (VOCAB, WIDTH), "head": (WIDTH, VOCAB)}
        return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}

    def bind(self, params: dict) -> "_Bound":
        return _Bound(params)


class _Bound(VideoLanguageModel):
    """The model with its parameters."""

    def __init__(self, params: dict):
        self._params = nnx.data(params)

    def __call__(self, batch) -> Output:
        return Output(self._params["embedding"][batch.tokens], None)

    def head(self):
        return self._params["head"]
