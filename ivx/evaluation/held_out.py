"""The loss of a model on held-out batches, as one quotient over all of them."""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from ivx import progress
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.parallel import batches, sharding
from ivx.stages.language_model import LanguageModelStage


def loss(
    bind: Callable[[Params], VideoLanguageModel],
    weights: Params,
    held_out: Sequence[Batch],
    mesh: Mesh,
    reduction: str,
) -> float:
    """Next-token loss in nats.

    Args:
      bind: from weights to the model; called under jit.
      weights: parameters of the model.
      held_out: at least one batch.
      mesh: devices over which packs are sharded.
      reduction: token, square or sample.
    """
    return measure(bind, held_out, mesh, reduction)(weights)


def measure(
    bind: Callable[[Params], VideoLanguageModel],
    held_out: Sequence[Batch],
    mesh: Mesh,
    reduction: str,
) -> Callable[[Params], float]:
    """`loss` as a function of the weights, compiled once; same arguments."""
    stage = LanguageModelStage(lambda first: iter(()), [], reduction)
    batch_loss = jax.jit(
        sharding.under_mesh(mesh, lambda weights, batch: stage.loss(bind(weights), batch, {})[:2]),
        out_shardings=sharding.replicated(mesh),
    )

    def total(weights: Params) -> float:
        tracked = progress.track(held_out, len(held_out), "held-out loss", "batches")
        parts = [batch_loss(weights, batches.put_batch(batch, mesh)) for batch in tracked]
        summed, weight = (sum(float(part[i]) for part in parts) for i in range(2))
        return summed / weight

    return total
