"""Rehearsal: a stage keeps training on earlier data, so that it does not forget it.

    L = L_stage + c L_nll

L_nll is the mean negative log-likelihood of the trained tokens of fine-tuning data, in the same way
as InstructGPT's RL continues pretraining (PPO-ptx, arXiv 2203.02155, eq. 2). Any stage can be
wrapped; it sees only its own batches. With gradient accumulation both quotients are per
micro-batch.

Shapes: the batch holds packs [B, T] of the stage and packs [B, T] of the rehearsed data.
"""

import dataclasses
import typing

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipelines.batch import Batch
from data_pipelines.loader import LoadedBatch
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Loss, Producer, Stage, StageBatch

_EPS = 1e-12


@typing.no_type_check  # trees of shapes and of shardings have this type too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RehearsalBatch:
    """A batch of the wrapped stage and a batch of rehearsed data.

    Attributes:
      own: the wrapped stage's batch.
      rehearsed: packs of fine-tuning data.
    """

    own: StageBatch
    rehearsed: Batch

    @property
    def segments(self) -> Array:
        """Segments of the wrapped stage's packs; token counts exclude rehearsed data."""
        return self.own.segments


class RehearsalProducer:
    """Pairs the batches of a stage with rehearsed batches."""

    def __init__(self, stage: Producer, rehearsed: Producer) -> None:
        self._stage, self._rehearsed = stage, rehearsed

    def next(self, params: Params) -> LoadedBatch:
        """This host's share of the next pair of batches."""
        own, rehearsed = self._stage.next(params), self._rehearsed.next(params)
        return LoadedBatch(
            RehearsalBatch(own.batch, rehearsed.batch),
            own.skipped + rehearsed.skipped,
            own.metrics,
            own.samples + rehearsed.samples,
            own.frames + rehearsed.frames,
        )


class RehearsalStage:
    """A stage combined with fine-tuning on earlier data.

    Args:
      stage: the wrapped stage.
      rehearsed: fine-tuning on the data to remember.
      coefficient: c, the weight of the mean loss of rehearsed tokens.
    """

    def __init__(self, stage: Stage, rehearsed: LanguageModelStage, coefficient: float) -> None:
        self._stage, self._rehearsed, self._coefficient = stage, rehearsed, coefficient

    def producer(self, start: int) -> RehearsalProducer:
        return RehearsalProducer(self._stage.producer(start), self._rehearsed.producer(start))

    def validation(self) -> list[Batch]:
        return self._stage.validation()

    def frozen(self, mesh: Mesh) -> Params:
        return self._stage.frozen(mesh)

    def loss(self, model: VideoLanguageModel, batch: StageBatch, frozen: Params) -> Loss:
        if not isinstance(batch, RehearsalBatch):
            # A validation batch: the wrapped stage's loss alone.
            return self._stage.loss(model, batch, frozen)
        own = self._stage.loss(model, batch.own, frozen)
        rehearsed = self._rehearsed.loss(model, batch.rehearsed, {})
        # The step divides the sum by the weight of the wrapped stage.
        scale = self._coefficient * own.weight / (rehearsed.weight + _EPS)
        means = own.means | {
            "loss/own": (own.total, own.weight),
            "loss/rehearsed": (rehearsed.total, rehearsed.weight),
        }
        return Loss(own.total + scale * rehearsed.total, own.weight, own.sums, means)

    def trains(self, path: tuple[str, ...]) -> bool:
        return self._stage.trains(path)
