"""The last step of a conversion: latent attention learns to reproduce grouped attention.

    L = mean over layers l of   sum_t |new_l(x_t) - old_l(x_t)|^2  /  sum_t |old_l(x_t)|^2

x_t is the input of layer l in the original model, so every layer is fitted independently, all in
one pass. Labels are not used. The closed-form solution of `ivx.conversion` is optimal for sums over
keys, queries and values; this stage continues on the attention's output. Only attention trains.

Shapes: attention inputs and outputs [B, T, D], errors and energies one value per layer [L].
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
from data_pipelines.loader import LoadedBatch
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope
from ivx.stages.language_model import LanguageModelProducer
from ivx.stages.protocol import Loss

# Path pattern of the trained parameters.
TRAINS = "*.self_attn.*"


class AttentionMatchingStage:
    """Relative squared error of every layer's attention on the original model's inputs.

    Args:
      original: the model before conversion.
      load_original: from a mesh to its parameters on it.
      open_batches: from a batch number to the batches from there on.
      validation: validation batches.
    """

    def __init__(
        self,
        original: ModelDefinition,
        load_original: Callable[[Mesh], Params] | None,
        open_batches: Callable[[int], Iterator[LoadedBatch]] | None,
        validation: list[Batch],
    ) -> None:
        # The original has no backward pass, so nothing needs rematerialisation.
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
            f"convert/error_layer_{layer}": (errors_l[layer], energies_l[layer])
            for layer in range(len(errors_l))
        }
        # Weighted by tokens, so that micro-batches count by their size.
        total = tokens * (errors_l / jnp.maximum(energies_l, 1e-12)).mean()
        return Loss(total, tokens, {"tokens/text_and_video": tokens}, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        return fnmatch.fnmatchcase(".".join(path), TRAINS)


def errors(
    original: VideoLanguageModel, other: VideoLanguageModel, batch: Batch
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """sum |new - old|^2 and sum |old|^2 of every layer's attention on the original's inputs.

    Args:
      original: bound for this call only, since it is modified.
      other: the converted model; only its attention is used.
      batch: padding does not count.
    """
    layers = original.language_model.layers
    layers.self_attn = _Compared(layers.self_attn, other.language_model.layers.self_attn)
    return original(batch, keep_cache=True).cache


class _Compared(nnx.Module):
    """The original attention, which returns another attention's error in place of a cache."""

    def __init__(self, old: nnx.Module, new: nnx.Module) -> None:
        self.old, self.new = old, new

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array]]:
        target_btd = self.old(x_btd, rope, segments_bt)[0]
        graph, params = nnx.split(self.new)
        error = _error(graph, params, x_btd, rope, segments_bt, target_btd)
        return target_btd, (error, _energy(target_btd, segments_bt))


def _energy(a_btd: Array, segments_bt: Array) -> Array:
    """Sum of squares without padding, float32."""
    real_bt1 = (segments_bt > 0)[..., None]
    return jnp.where(real_bt1, jnp.square(a_btd.astype(jnp.float32)), 0).sum()


def _squared_error(
    graph: nnx.GraphDef,
    params: nnx.State,
    x_btd: Array,
    rope: Rope,
    segments_bt: Array,
    target_btd: Array,
) -> Array:
    """Squared error of an attention's output."""
    output_btd = nnx.merge(graph, params)(x_btd, rope, segments_bt)[0]
    difference_btd = output_btd.astype(jnp.float32) - target_btd.astype(jnp.float32)
    return _energy(difference_btd, segments_bt)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _error(graph: nnx.GraphDef, params: nnx.State, *inputs: Array | Rope) -> Array:
    """`_squared_error`, whose gradient is computed in the forward pass.

    The backward pass then needs only the gradients of each layer's parameters, not the layer's
    inputs. For the 36 layers of 8b the inputs would take 19 GB at 65,536 tokens.
    """
    return _squared_error(graph, params, *inputs)


def _forward(
    graph: nnx.GraphDef, params: nnx.State, *inputs: Array | Rope
) -> tuple[Array, nnx.State]:
    return jax.value_and_grad(_squared_error, argnums=1)(graph, params, *inputs)


def _backward(graph: nnx.GraphDef, gradient: nnx.State, cotangent: Array) -> tuple:
    del graph
    # The inputs come from the original model, which has no gradients.
    return jax.tree.map(lambda a: cotangent * a, gradient), None, None, None, None


_error.defvjp(_forward, _backward)
