"""The stage of continued pretraining and supervised fine-tuning: predict the next trained token."""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from data_pipelines.batch import Batch
from data_pipelines.loader import Loaded
from ivx.kernels.cross_entropy import TokenScores, cross_entropy, token_scores
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.protocol import Loss
from ivx.stages.reduction import token_weights


def token_nll(model: VideoLanguageModel, batch: Batch) -> Float[Array, "b t"]:
    """-log p of each target of positive weight, float32; 0 elsewhere."""
    return cross_entropy(model(batch).hidden, model.head(), batch.targets, batch.weights > 0)


def score_tokens(model: VideoLanguageModel, batch: Batch) -> TokenScores:
    """log p of each target of positive weight, and the entropy there; 0 elsewhere."""
    hidden_btd, head_dv = model(batch).hidden, model.head()
    return token_scores(hidden_btd, head_dv, batch.targets, scored_t=batch.weights > 0)


class LanguageModelProducer:
    """Batches of a plan; parameters are not looked at."""

    def __init__(self, batches: Iterator[Loaded]):
        self._batches = batches

    def next(self, params: Params) -> Loaded:
        del params
        return next(self._batches)


class LanguageModelStage:
    """Cross-entropy on what assistants say.

    Args:
      open_batches: from a batch number to the batches that follow.
      validation: batches to watch.
      reduction: token, square or sample.
    """

    def __init__(
        self,
        open_batches: Callable[[int], Iterator[Loaded]],
        validation: list[Batch],
        reduction: str,
    ):
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
        means = {"loss/token": ((batch.weights * nll_bt).sum(), batch.weights.sum())}
        return Loss((weights_bt * nll_bt).sum(), weights_bt.sum(), sums, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        del path
        return True
