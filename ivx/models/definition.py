"""The model as a pure function of its parameters.

Flax modules describe the model. Training, sampling and checkpoints operate on nested dicts of
arrays. The module graph is split off once here, and modules are rebuilt inside jitted functions.
"""

import jax
from flax import nnx

from ivx.models.model import VideoLanguageModel
from ivx.models.spec import ModelSpec

Params = dict
# Leaves that layers cast to the dtype of computation; all others are used in float32.
_MATRICES = ("kernel", "embedding")


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


def held_in(dtype: str, shapes: Params) -> Params:
    """Shapes of parameters whose kernels and embeddings are of a dtype.

    Layers cast these to the dtype of computation in any case, so with that dtype no output of the
    model changes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jax.ShapeDtypeStruct(leaf.shape, dtype) if path[-1].key in _MATRICES else leaf
        ),
        shapes,
    )


def cast(params: Params, dtype: str) -> Params:
    """Casts kernels and embeddings in place, one at a time, so that no second copy is held."""
    for name, leaf in params.items():
        if isinstance(leaf, dict):
            cast(leaf, dtype)
        elif name in _MATRICES and leaf.dtype != dtype:
            params[name] = leaf.astype(dtype).block_until_ready()
    return params
