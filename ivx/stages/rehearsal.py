"""Rehearsal: a stage goes on learning what an earlier one taught, so that it does not unlearn it.

    L = L_stage + c L_nll

with L_nll the mean negative log-likelihood of trained tokens of fine-tuning data, as RL of
InstructGPT goes on with pretraining (PPO-ptx, arXiv 2203.02155, eq. 2). Any stage can be wrapped;
it sees its own batches and nothing else. With accumulation both quotients are those of a
micro-batch.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipelines.batch import Batch
from data_pipelines.loader import Loaded
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Loss, Producer, Stage

_EPS = 1e-12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RehearsalBatch:
    """A batch of the stage beside one of what is rehearsed.

    Attributes:
      own: the stage's.
      rehearsed: packs of fine-tuning data.
    """

    own: Any
    rehearsed: Batch

    @property
    def segments(self) -> Array:
        """Those of the stage's own packs, by which its tokens are counted."""
        return self.own.segments


class RehearsalProducer:
    """Pairs the batches of a stage with those that are rehearsed."""

    def __init__(self, own: Producer, rehearsed: Producer):
        self._own, self._rehearsed = own, rehearsed

    def next(self, params: Params) -> Loaded:
        own, rehearsed = self._own.next(params), self._rehearsed.next(params)
        return Loaded(
            RehearsalBatch(own.batch, rehearsed.batch),
            own.skipped + rehearsed.skipped,
            own.numbers,
            own.samples + rehearsed.samples,
            own.frames + rehearsed.frames,
        )


class RehearsalStage:
    """A stage and, beside it, fine-tuning.

    Args:
      own: the stage.
      rehearsed: fine-tuning on what is not to be forgotten.
      coefficient: c, of the mean loss of a rehearsed token.
    """

    def __init__(self, own: Stage, rehearsed: LanguageModelStage, coefficient: float):
        self._own, self._rehearsed, self._coefficient = own, rehearsed, coefficient

    def producer(self, start: int) -> RehearsalProducer:
        return RehearsalProducer(self._own.producer(start), self._rehearsed.producer(start))

    def validation(self) -> list[Batch]:
        return self._own.validation()

    def frozen(self, mesh: Mesh) -> Params:
        return self._own.frozen(mesh)

    def loss(self, model: VideoLanguageModel, batch, frozen: Params) -> Loss:
        if not isinstance(batch, RehearsalBatch):
            # Validation watches the stage's own loss.
            return self._own.loss(model, batch, frozen)
        own = self._own.loss(model, batch.own, frozen)
        kept = self._rehearsed.loss(model, batch.rehearsed, {})
        # The loop divides by the weight of the stage.
        share = self._coefficient * own.weight / (kept.weight + _EPS)
        means = own.means | {
            "loss/own": (own.total, own.weight),
            "loss/rehearsed": (kept.total, kept.weight),
        }
        return Loss(own.total + share * kept.total, own.weight, own.sums, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        return self._own.trains(path)
