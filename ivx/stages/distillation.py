"""On-policy distillation: the student answers, the teacher says how it would have gone on.

    y ~ student;   L = mean_t KL(student(. | y_<t) || teacher(. | y_<t))

The divergence is that of the whole vocabulary, so that its gradient is exact (the generalized JSD
of arXiv 2306.13649 at beta = 1). Draws are not differentiated. The release names the teacher's
family (Qwen3-235B) and shows no loss: this one is ours.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.loader import Loaded
from ivx.kernels.reverse_kl import reverse_kl
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel
from ivx.stages.protocol import Loss
from ivx.stages.rollouts import Roller, lengths, means, pack


class DistillationProducer:
    """One rollout a batch."""

    def __init__(self, roller: Roller, shape: packing.PackShape, packs: int, start: int):
        self._roller, self._shape, self._packs, self._number = roller, shape, packs, start

    def next(self, params: Params) -> Loaded:
        rollouts, skipped = self._roller.roll(params, self._number)
        self._number += 1
        packed = pack(rollouts, self._shape, self._packs)
        samples = tuple(rollout.sample.id for rollout in rollouts)
        return Loaded(packed.batch, tuple(skipped), means(lengths(rollouts)), samples)


class DistillationStage:
    """Reverse KL to a teacher on the student's own answers.

    Args:
      roller: draws answers.
      teacher: the teacher's model; its vocabulary is the student's.
      load_teacher: from a mesh to the teacher's parameters on it.
      shape: room in a pack.
      packs: packs of a batch that this host makes.
      validation: batches of reference answers on which the divergence is watched.
    """

    def __init__(
        self,
        roller: Roller,
        teacher: ModelDefinition,
        load_teacher: Callable[[Mesh], Params],
        shape: packing.PackShape,
        packs: int,
        validation: list[Batch],
    ):
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
