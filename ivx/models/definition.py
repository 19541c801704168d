"""The model as a pure function of its parameters.

Flax modules describe the model. Training, sampling and checkpoints operate on nested dicts of
arrays. The module graph is split off once here, and modules are rebuilt inside jitted functions.
"""

import jax
from flax import nnx

from ivx.models.model import VideoLanguageModel
from ivx.models.spec import ModelSpec

Params = dict


class ModelDefinition:
    """A model without its parameters.

    Attributes:
      spec: sizes of the model.
      abstract: nnx state with shapes and metadata, without arrays.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._graph, self.abstract = nnx.split(
            nnx.eval_shape(lambda: VideoLanguageModel(spec, nnx.Rngs(0)))
        )

    def init(self, seed: int) -> Params:
        """Randomly initialized parameters, float32."""
        return nnx.to_pure_dict(nnx.state(VideoLanguageModel(self.spec, nnx.Rngs(seed))))

    def bind(self, params: Params) -> VideoLanguageModel:
        """The model with these parameters; free of cost inside a jitted function."""
        state = jax.tree.map(lambda leaf: leaf, self.abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)

    @property
    def abstract_params(self) -> Params:
        """Shapes and dtypes of the parameters."""
        return nnx.to_pure_dict(self.abstract)
