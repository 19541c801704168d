"""Compares two models on held-out packs: KL of their predictions, loss, and error of each layer.

    KL of a token = sum_v p(v) (log p(v) - log q(v))       p of the source, q of the other model

It is averaged over the tokens with loss (`words`: answers about a video), and over all tokens
without padding (`all`).

Shapes: kl_bt and nll_bt [B, T], layer errors [L].
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
from ivx.parallel import batches, sharding
from ivx.stages import attention_matching

Bind = Callable[[Any], VideoLanguageModel]


class Divergence(NamedTuple):
    """Means over tokens in nats, and the relative error of each layer's attention.

    Attributes:
      words: KL at tokens with loss.
      all: KL at all tokens.
      loss: of the other model, at the tokens of `words`.
      layers: sqrt(sum |new - old|^2 / sum |old|^2) of the attention on the source's inputs.
    """

    words: float
    all: float
    loss: float
    layers: tuple[float, ...]


def divergence(
    source: tuple[Bind, Any], other: tuple[Bind, Any], held_out: Sequence[Batch], mesh: Mesh
) -> Divergence:
    """Compares two models on the same batches.

    Args:
      source: `bind`, a function from weights to the model, called under jit; and the weights.
      other: the same for the other model.
      held_out: at least one batch.
      mesh: devices over which packs are sharded.
    """

    def sums(weights: Any, others: Any, batch: Batch) -> tuple:
        real_bt, words_bt = (batch.segments > 0), batch.weights > 0
        expected, actual = (
            (model(batch).hidden, model.head()) for model in (source[0](weights), other[0](others))
        )
        kl_bt = reverse_kl(*expected, *actual, real_bt)
        nll_bt = cross_entropy(*actual, batch.targets, words_bt)
        totals = jnp.stack(
            [
                (kl_bt * words_bt).sum(),
                (kl_bt * real_bt).sum(),
                (nll_bt * words_bt).sum(),
                words_bt.sum(),
                real_bt.sum(),
            ]
        )
        layers = attention_matching.errors(source[0](weights), other[0](others), batch)
        return totals, jnp.stack(layers)

    run = jax.jit(sharding.under_mesh(mesh, sums), out_shardings=sharding.replicated(mesh))
    total, layers = np.zeros(5), 0.0
    for batch in held_out:
        totals, errors = run(source[1], other[1], batches.put_batch(batch, mesh))
        total, layers = total + np.asarray(totals), layers + np.asarray(errors, np.float64)
    words, everywhere, loss, count, real = total
    return Divergence(
        float(words / count),
        float(everywhere / real),
        float(loss / count),
        tuple(np.sqrt(layers[0] / np.maximum(layers[1], 1e-30)).tolist()),
    )
