"""How far a model is from another on held-out packs: what both expect at every token, and layers.

    KL of a token = sum_v p(v) (log p(v) - log q(v))       p of the source, q of the other

over the tokens whose prediction bears loss (`words`: answers about a video), and over all that are
no padding (`all`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from ivx.kernels.cross_entropy import cross_entropy
from ivx.kernels.reverse_kl import reverse_kl
from ivx.models.model import VideoLanguageModel
from ivx.parallel import ambient, rules
from ivx.stages import attention_matching

Bind = Callable[[Any], VideoLanguageModel]


class Divergence(NamedTuple):
    """Means over tokens, in nats, and the relative error of each layer's attention.

    Attributes:
      words: KL where predicting the next token bears loss.
      all: KL at every token.
      loss: of the other model, on the same tokens as `words`.
      layers: sqrt(sum |new - old|^2 / sum |old|^2) of the attention, inputs as in the source.
    """

    words: float
    all: float
    loss: float
    layers: tuple[float, ...]


def divergence(
    source: tuple[Bind, Any], other: tuple[Bind, Any], batches: Sequence[Batch], mesh: Mesh
) -> Divergence:
    """Compares two models on the same batches.

    Args:
      source: `bind(weights)` gives the model inside a jitted function; and the weights.
      other: the same of the other model.
      batches: at least one.
      mesh: devices over which packs are spread.
    """

    def sums(weights: Any, others: Any, batch: Batch) -> tuple:
        real_bt, words_bt = (batch.segments > 0), batch.weights > 0
        wanted, found = (
            (model(batch).hidden, model.head()) for model in (source[0](weights), other[0](others))
        )
        kl_bt = reverse_kl(*wanted, *found, real_bt)
        nll_bt = cross_entropy(*found, batch.targets, words_bt)
        numbers = jnp.stack(
            [
                (kl_bt * words_bt).sum(),
                (kl_bt * real_bt).sum(),
                (nll_bt * words_bt).sum(),
                words_bt.sum(),
                real_bt.sum(),
            ]
        )
        layers = attention_matching.errors(source[0](weights), other[0](others), batch)
        return numbers, jnp.stack(layers)

    run = jax.jit(ambient.under(mesh, sums), out_shardings=rules.replicated(mesh))
    total, layers = np.zeros(5), 0.0
    for batch in batches:
        numbers, found = run(source[1], other[1], rules.put_batch(batch, mesh))
        total, layers = total + np.asarray(numbers), layers + np.asarray(found, np.float64)
    words, everywhere, loss, count, real = total
    return Divergence(
        float(words / count),
        float(everywhere / real),
        float(loss / count),
        tuple(np.sqrt(layers[0] / np.maximum(layers[1], 1e-30)).tolist()),
    )
