"""Continued pretraining and supervised fine-tuning: next-token cross-entropy on assistant turns.

    L = sum_t w_t CE_t / sum_t w_t        CE_t = -log p(target_t | video and tokens up to t)

The model maps a batch of packs to hidden states, the output head gives each target's -log p, and
this stage sums them to one quotient, whose gradient `ivx.training.step` takes. The weights w_t come
from `ivx.stages.reduction` and are 0 outside assistant turns.

Shapes: B packs, T tokens in a pack, D model width, V vocabulary.

    batch --model--> hidden_btd --head_dv--> nll_bt --weights_bt--> Loss(total, weight)
"""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from data_pipelines.batch import Batch
from data_pipelines.loader import LoadedBatch
from ivx.kernels.cross_entropy import TokenScores, cross_entropy, token_scores
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.protocol import Loss
from ivx.stages.reduction import token_weights


def token_nll(model: VideoLanguageModel, batch: Batch) -> Float[Array, "b t"]:
    """-log p of each target with positive weight, float32; 0 elsewhere."""
    return cross_entropy(model(batch).hidden, model.head(), batch.targets, batch.weights > 0)


def score_tokens(model: VideoLanguageModel, batch: Batch) -> TokenScores:
    """Log p and entropy at each target with positive weight; 0 elsewhere."""
    hidden_btd, head_dv = model(batch).hidden, model.head()
    return token_scores(hidden_btd, head_dv, batch.targets, scored_t=batch.weights > 0)


class LanguageModelProducer:
    """Batches of the data plan; they do not depend on the parameters."""

    def __init__(self, batches: Iterator[LoadedBatch]) -> None:
        self._batches = batches

    def next(self, params: Params) -> LoadedBatch:
        """This host's share of the next batch."""
        del params
        return next(self._batches)


class LanguageModelStage:
    """Next-token prediction on assistant turns; all parameters train.

    Args:
      open_batches: from a batch number to the batches from there on; None to compute losses only.
      validation: validation batches.
      reduction: token, square or sample.
    """

    def __init__(
        self,
        open_batches: Callable[[int], Iterator[LoadedBatch]] | None,
        validation: list[Batch],
        reduction: str,
    ) -> None:
        self._open_batches = open_batches
        self._validation = validation
        self._reduction = reduction

    def producer(self, start: int) -> LanguageModelProducer:
        return LanguageModelProducer(self._open_batches(start))

    def validation(self) -> list[Batch]:
        return self._validation

    def frozen(self, mesh: Mesh) -> Params:
        del mesh
        return {}

    def loss(self, model: VideoLanguageModel, batch: Batch, frozen: Params) -> Loss:
        del frozen
        nll_bt = token_nll(model, batch)
        weights_bt = token_weights(batch.weights, batch.segments, self._reduction)
        sums = {
            "tokens/trained": batch.weights.sum(),
            "tokens/text_and_video": (batch.segments > 0).sum().astype(jnp.float32),
        }
        # Comparable across reductions: every token counts once.
        means = {"loss/token": ((batch.weights * nll_bt).sum(), batch.weights.sum())}
        return Loss((weights_bt * nll_bt).sum(), weights_bt.sum(), sums, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        del path
        return True
