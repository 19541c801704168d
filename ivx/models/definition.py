"""The functional core: the model as a pure function of its parameters.

Flax modules describe the model; training, sampling and checkpoints work on plain nested dicts of
arrays. The graph is split off once here, and a module is put together again inside jitted
functions.
"""

import jax
from flax import nnx

from ivx.models.model import VideoLanguageModel
from ivx.models.spec import ModelSpec

Params = dict


class ModelDefinition:
    """A model without its parameters.

    Attributes:
      spec: its sizes.
      abstract: state of shapes and metadata, no arrays.
    """

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self._graph, self.abstract = nnx.split(
            nnx.eval_shape(lambda: VideoLanguageModel(spec, nnx.Rngs(0)))
        )

    def init(self, seed: int) -> Params:
        """New parameters, float32."""
        return nnx.to_pure_dict(nnx.state(VideoLanguageModel(self.spec, nnx.Rngs(seed))))

    def bind(self, params: Params) -> VideoLanguageModel:
        """The model with these parameters; made inside a jitted function it costs nothing."""
        state = jax.tree.map(lambda leaf: leaf, self.abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)

    @property
    def abstract_params(self) -> Params:
        """Shapes and dtypes of the parameters."""
        return nnx.to_pure_dict(self.abstract)
