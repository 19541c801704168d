"""On-policy distillation: the student samples answers, and the teacher corrects every token.

    y ~ student;   L = mean_t KL(student(. | y_<t) || teacher(. | y_<t))

The KL is taken over the whole vocabulary, so its gradient is exact (the generalized JSD of arXiv
2306.13649 at beta = 1). The sampling is not differentiated. The release names the teacher's family
(Qwen3-235B) but publishes no loss: this one is ours.

Shapes: hidden states [B, T, D], heads [D, V], kl_bt [B, T]. Only answer tokens have weight 1.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.loader import LoadedBatch
from ivx.kernels.reverse_kl import reverse_kl
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.protocol import Loss
from ivx.stages.rollouts import Roller, lengths, means, pack


class DistillationProducer:
    """One rollout per batch."""

    def __init__(self, roller: Roller, shape: packing.PackShape, packs: int, start: int) -> None:
        self._roller, self._shape, self._packs, self._number = roller, shape, packs, start

    def next(self, params: Params) -> LoadedBatch:
        """This host's share of the next rollout, packed."""
        rollouts, skipped = self._roller.roll(params, self._number)
        self._number += 1
        packed = pack(rollouts, self._shape, self._packs)
        samples = tuple(rollout.sample.id for rollout in rollouts)
        return LoadedBatch(packed.batch, tuple(skipped), means(lengths(rollouts)), samples)


class DistillationStage:
    """Reverse KL to a teacher on the student's own answers.

    Args:
      roller: samples answers.
      teacher: the teacher's model; same vocabulary as the student.
      load_teacher: from a mesh to the teacher's parameters on it.
      shape: capacity of a pack.
      packs: packs per batch on this host.
      validation: batches of reference answers on which the KL is validated.
    """

    def __init__(
        self,
        roller: Roller | None,
        teacher: ModelDefinition,
        load_teacher: Callable[[Mesh], Params] | None,
        shape: packing.PackShape,
        packs: int,
        validation: list[Batch],
    ) -> None:
        self._roller, self._teacher, self._load_teacher = roller, teacher, load_teacher
        self._shape, self._packs, self._validation = shape, packs, validation

    def producer(self, start: int) -> DistillationProducer:
        return DistillationProducer(self._roller, self._shape, self._packs, start)

    def validation(self) -> list[Batch]:
        return self._validation

    def frozen(self, mesh: Mesh) -> Params:
        return self._load_teacher(mesh)

    def loss(self, model: VideoLanguageModel, batch: Batch, frozen: Params) -> Loss:
        teacher = self._teacher.bind(frozen)
        kl_bt = reverse_kl(
            model(batch).hidden,
            model.head(),
            teacher(batch).hidden,
            teacher.head(),
            batch.weights > 0,
        )
        sums = {
            "tokens/trained": batch.weights.sum(),
            "tokens/text_and_video": (batch.segments > 0).sum().astype(jnp.float32),
        }
        return Loss((batch.weights * kl_bt).sum(), batch.weights.sum(), sums, {})

    def trains(self, path: tuple[str, ...]) -> bool:
        del path
        return True
