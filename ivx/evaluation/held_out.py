"""The loss of a model on held-out batches, as one quotient over all of them."""

from collections.abc import Callable, Sequence

import jax
import tqdm
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.parallel import ambient, rules
from ivx.stages.language_model import LanguageModelStage


def loss(
    bind: Callable[[Params], VideoLanguageModel],
    weights: Params,
    batches: Sequence[Batch],
    mesh: Mesh,
    reduction: str,
) -> float:
    """Next-token loss in nats.

    Args:
      bind: from weights to the model, inside a jitted function.
      weights: its parameters.
      batches: at least one.
      mesh: devices over which packs are spread.
      reduction: token, square or sample.
    """
    return measure(bind, batches, mesh, reduction)(weights)


def measure(
    bind: Callable[[Params], VideoLanguageModel],
    batches: Sequence[Batch],
    mesh: Mesh,
    reduction: str,
) -> Callable[[Params], float]:
    """`loss` of any weights, compiled once; arguments as there."""
    stage = LanguageModelStage(lambda first: iter(()), [], reduction)
    one = jax.jit(
        ambient.under(mesh, lambda weights, batch: stage.loss(bind(weights), batch, {})[:2]),
        out_shardings=rules.replicated(mesh),
    )

    def total(weights: Params) -> float:
        bar = tqdm.tqdm(batches, "held-out loss", unit=" batches", mininterval=1.0)
        parts = [one(weights, rules.put_batch(batch, mesh)) for batch in bar]
        summed, weight = (sum(float(part[i]) for part in parts) for i in range(2))
        return summed / weight

    return total
