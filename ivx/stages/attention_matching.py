"""The last step of a conversion: latent attention learns to say what grouped attention said.

    L = mean over layers l of   sum_t |new_l(x_t) - old_l(x_t)|^2  /  sum_t |old_l(x_t)|^2

x_t is what layer l of the original model is fed, so that every layer is fitted by itself, all at
once, in one pass. No answer is looked at. The algebra of `ivx.conversion` is the best for sums over
keys, queries and values; this goes on for what attention makes of them. Nothing but attention
trains.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from data_pipelines.loader import Loaded
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope
from ivx.stages.language_model import LanguageModelProducer
from ivx.stages.protocol import Loss

# Pattern of the paths of what trains.
TRAINS = "*.self_attn.*"


class AttentionMatchingStage:
    """Relative squared error of every layer's attention, inputs being those of the original.

    Args:
      original: the model that was converted.
      load_original: from a mesh to its parameters on it.
      open_batches: from a batch number to the batches that follow.
      validation: batches to watch.
    """

    def __init__(
        self,
        original: ModelDefinition,
        load_original: Callable[[Mesh], Params],
        open_batches: Callable[[int], Iterator[Loaded]],
        validation: list[Batch],
    ):
        # Nothing of it has a gradient, so that nothing need be made again.
        self._original = ModelDefinition(dataclasses.replace(original.spec, remat="none"))
        self._load_original = load_original
        self._open_batches, self._validation = open_batches, validation

    def producer(self, start: int) -> LanguageModelProducer:
        return LanguageModelProducer(self._open_batches(start))

    def validation(self) -> list[Batch]:
        return self._validation

    def frozen(self, mesh: Mesh) -> Params:
        return self._load_original(mesh)

    def loss(self, model: VideoLanguageModel, batch: Batch, frozen: Params) -> Loss:
        errors_l, energies_l = errors(self._original.bind(frozen), model, batch)
        tokens = (batch.segments > 0).sum().astype(jnp.float32)
        means = {
            f"convert/error_layer_{number}": (errors_l[number], energies_l[number])
            for number in range(len(errors_l))
        }
        # By tokens, so that micro-batches count by what is in them.
        total = tokens * (errors_l / jnp.maximum(energies_l, 1e-12)).mean()
        return Loss(total, tokens, {"tokens/text_and_video": tokens}, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        return fnmatch.fnmatchcase(".".join(path), TRAINS)


def errors(
    original: VideoLanguageModel, other: VideoLanguageModel, batch: Batch
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """sum |new - old|^2 and sum |old|^2 of every layer's attention on the inputs of the original.

    Args:
      original: bound for this alone; it is changed.
      other: its attention is looked at, nothing else.
      batch: padding does not count.
    """
    layers = original.language_model.layers
    layers.self_attn = _Beside(layers.self_attn, other.language_model.layers.self_attn)
    return original(batch, keep_cache=True).cache


class _Beside(nnx.Module):
    """Attention as it was, which keeps how far another is from it instead of a cache."""

    def __init__(self, old: nnx.Module, new: nnx.Module):
        self.old, self.new = old, new

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array]]:
        wanted_btd = self.old(x_btd, rope, segments_bt)[0]
        graph, params = nnx.split(self.new)
        error = _error(graph, params, x_btd, rope, segments_bt, wanted_btd)
        return wanted_btd, (error, _energy(wanted_btd, segments_bt))


def _energy(a_btd: Array, segments_bt: Array) -> Array:
    """Sum of squares, float32; padding does not count."""
    real_bt1 = (segments_bt > 0)[..., None]
    return jnp.where(real_bt1, jnp.square(a_btd.astype(jnp.float32)), 0).sum()


def _distance(graph, params, x_btd, rope, segments_bt, wanted_btd):
    """How far attention is from what is wanted of it, squared."""
    found_btd = nnx.merge(graph, params)(x_btd, rope, segments_bt)[0]
    difference_btd = found_btd.astype(jnp.float32) - wanted_btd.astype(jnp.float32)
    return _energy(difference_btd, segments_bt)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _error(graph, params, *fed):
    """`_distance`, whose gradient is made together with it.

    So of each layer the gradient of its parameters waits for the backward pass, and not what it was
    fed: of the 36 of 8b that would be 19 GB at 65,536 tokens.
    """
    return _distance(graph, params, *fed)


def _forward(graph, params, *fed):
    return jax.value_and_grad(_distance, argnums=1)(graph, params, *fed)


def _backward(graph, gradient, slope):
    del graph
    # What the layer was fed is of the original, where nothing trains.
    return jax.tree.map(lambda a: slope * a, gradient), None, None, None, None


_error.defvjp(_forward, _backward)
