"""Group sequence policy optimization (GSPO, arXiv 2507.18071, eq. 5-7) with rule-based rewards.

For each question the old policy samples a group of G answers y_i, which rules reward with r_i:

    A_i = (r_i - mean r) / std r                                  mean and std over the group
    s_i = exp(1/|y_i| sum_t log pi(y_it) - log pi_old(y_it))
    L   = -mean_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)

The release names its method R-GSPO and its rewards but publishes neither the loss nor numbers: this
one is ours. The answers of a rollout are split into minibatches, one optimizer step each. Old
log-probabilities are the trainer's own, before the first of these steps. Groups with equal rewards
have A = 0; they are not packed but do count in the mean.

Shapes: log-probabilities, advantages, weights and segments [B, T]; answer i is one segment.
"""

import dataclasses
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_pipelines import packing
from data_pipelines.batch import Batch
from data_pipelines.loader import LoadedBatch
from data_pipelines.media_error import SkippedSample
from ivx.judging.rewards import reward_of
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel
from ivx.parallel import batches, sharding
from ivx.stages.language_model import score_tokens
from ivx.stages.protocol import Loss
from ivx.stages.rollouts import (
    Packed,
    Quotient,
    Roller,
    Rollout,
    lengths,
    means,
    pack,
    per_token,
)

_EPS = 1e-6


@typing.no_type_check  # trees of shapes and of shardings have this type too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GspoBatch:
    """Packed answers.

    Attributes:
      batch: prompts with answers, weight 1 where the target is an answer token.
      old_logps: float32 [B, T], log pi_old of each target.
      advantages: float32 [B, T], A_i at the tokens of answer i.
      answers: float32 [B], answers per pack, counting the unpacked ones with advantage 0.
    """

    batch: Batch
    old_logps: np.ndarray
    advantages: np.ndarray
    answers: np.ndarray

    @property
    def segments(self) -> Array:
        """Segments of the packs."""
        return self.batch.segments


@dataclasses.dataclass(frozen=True)
class GspoSpec:
    """Hyperparameters of GSPO.

    Attributes:
      minibatches: optimizer steps per rollout.
      clip_low: epsilon of the ratio's lower bound.
      clip_high: epsilon of the ratio's upper bound.
    """

    minibatches: int
    clip_low: float
    clip_high: float


def advantages(rewards: Sequence[float]) -> np.ndarray:
    """A_i of one group, float64; all zero where the rewards are equal."""
    rewards = np.asarray(rewards, np.float64)
    centred = rewards - rewards.mean()
    return centred / (rewards.std() + _EPS) if np.ptp(rewards) > _EPS else np.zeros_like(rewards)


def gspo_loss(
    logps_bt: Float[Array, "b t"],
    old_logps_bt: Float[Array, "b t"],
    advantages_bt: Float[Array, "b t"],
    weights_bt: Float[Array, "b t"],
    segments_bt: Int[Array, "b t"],
    clip_low: float,
    clip_high: float,
) -> dict[str, Array]:
    """Sums over all answers: `loss` (undivided), `ratio`, `clipped` and `count`."""

    def pack_sums(
        logps: Array, old: Array, advantage: Array, weights: Array, segments: Array
    ) -> dict[str, Array]:
        count = segments.shape[0] + 1
        length = jax.ops.segment_sum(weights, segments, count)
        change = jax.ops.segment_sum(weights * (logps - old), segments, count)
        ratio = jnp.exp(change / jnp.maximum(length, 1))
        # The advantage is equal at all tokens of an answer.
        value = jax.ops.segment_max(jnp.where(weights > 0, advantage, -jnp.inf), segments, count)
        real = length > 0
        value = jnp.where(real, value, 0)
        clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
        loss = -jnp.minimum(ratio * value, clipped * value)
        outside = real & (clipped * value < ratio * value)
        return {
            "loss": jnp.where(real, loss, 0).sum(),
            "ratio": jnp.where(real, ratio, 0).sum(),
            "clipped": outside.sum().astype(jnp.float32),
            "count": real.sum().astype(jnp.float32),
        }

    sums = jax.vmap(pack_sums)(logps_bt, old_logps_bt, advantages_bt, weights_bt, segments_bt)
    return jax.tree.map(jnp.sum, sums)


class GspoProducer:
    """Samples a rollout every `minibatches` batches, and splits it into that many."""

    def __init__(self, stage: "GspoStage", start: int) -> None:
        self._stage, self._number, self._ready = stage, start, []

    def next(self, params: Params) -> LoadedBatch:
        """This host's share of the next minibatch."""
        count = self._stage.spec.minibatches
        if not self._ready:
            self._ready = self._stage.roll(params, self._number // count)
        self._number += 1
        return self._ready.pop(0)


class GspoStage:
    """GSPO on questions whose answers can be judged by rules.

    Args:
      roller: samples answers.
      definition: the model, for the old log-probabilities.
      shape: capacity of a pack.
      packs: packs per minibatch on this host.
      spec: hyperparameters.
      group: answers per question.
      mesh: devices.
    """

    def __init__(
        self,
        roller: Roller | None,
        definition: ModelDefinition,
        shape: packing.PackShape,
        packs: int,
        spec: GspoSpec,
        group: int,
        mesh: Mesh,
    ) -> None:
        self.spec = spec
        self._roller, self._shape, self._packs = roller, shape, packs
        self._group, self._mesh = group, mesh
        self._logps = jax.jit(
            sharding.under_mesh(
                mesh, lambda params, batch: score_tokens(definition.bind(params), batch).logps
            ),
            out_shardings=sharding.replicated(mesh),
        )

    def producer(self, start: int) -> GspoProducer:
        if start % self.spec.minibatches:
            raise ValueError(
                f"batch {start} does not start a rollout of {self.spec.minibatches} minibatches"
            )
        return GspoProducer(self, start)

    def validation(self) -> list[Batch]:
        return []

    def frozen(self, mesh: Mesh) -> Params:
        del mesh
        return {}

    def roll(self, params: Params, number: int) -> list[LoadedBatch]:
        """This host's share of rollout `number`, rewarded, as minibatches."""
        rollouts, skipped = self._roller.roll(params, number)
        groups = [rollouts[i : i + self._group] for i in range(0, len(rollouts), self._group)]
        values, rewards = {}, {f"rl/reward_{family}": [] for family in self._roller.families}
        for group in groups:
            truth = group[0].sample.truths[-1]
            reward = reward_of(truth)
            # A truncated answer earns nothing.
            points = [reward(rollout.text, truth) * rollout.ended for rollout in group]
            rewards[f"rl/reward_{truth['family']}"] += points
            values |= dict(zip(map(id, group), advantages(points), strict=True))
        equal = sum(not any(values[id(rollout)] for rollout in group) for group in groups)
        metrics = means(
            {name: (sum(points), len(points)) for name, points in rewards.items()}
            | {"rl/reward": (sum(map(sum, rewards.values())), len(rollouts))}
            | {"rl/equal_groups": (equal, len(groups))}
            | lengths(rollouts)
        )
        count = self.spec.minibatches
        return [
            self._minibatch(
                params,
                # A strided split: minibatch i gets the same answers on any number of hosts.
                rollouts[i::count],
                values,
                tuple(skipped) if i == 0 else (),
                metrics,
            )
            for i in range(count)
        ]

    def _minibatch(
        self,
        params: Params,
        rollouts: list[Rollout],
        values: dict[int, float],
        skipped: tuple[SkippedSample, ...],
        metrics: dict[str, float],
    ) -> LoadedBatch:
        """One minibatch; `values` are the advantages by the `id` of their rollouts."""
        informative = [rollout for rollout in rollouts if values[id(rollout)]]
        packed = pack(informative, self._shape, self._packs)
        old = np.asarray(self._logps(params, batches.put_batch(packed.batch, self._mesh)))
        old = batches.local_rows(old, self._mesh)
        metrics = metrics | means({"rl/sampler_difference": _sampler_difference(packed, old)})
        packs = len(packed.rows)
        answers = np.full(packs, len(rollouts) / packs, np.float32)
        batch = GspoBatch(packed.batch, old, per_token(packed, values), answers)
        return LoadedBatch(
            batch, skipped, metrics, tuple(rollout.sample.id for rollout in informative)
        )

    def loss(self, model: VideoLanguageModel, batch: GspoBatch, frozen: Params) -> Loss:
        del frozen
        inner = batch.batch
        scores = score_tokens(model, inner)
        result = gspo_loss(
            scores.logps,
            batch.old_logps,
            batch.advantages,
            inner.weights,
            inner.segments,
            self.spec.clip_low,
            self.spec.clip_high,
        )
        sums = {
            "tokens/trained": inner.weights.sum(),
            "tokens/text_and_video": (inner.segments > 0).sum().astype(jnp.float32),
        }
        quotients = {
            "rl/ratio": (result["ratio"], result["count"]),
            "rl/clipped": (result["clipped"], result["count"]),
            "rl/entropy": ((inner.weights * scores.entropy).sum(), inner.weights.sum()),
        }
        return Loss(result["loss"], batch.answers.sum(), sums, quotients)

    def trains(self, path: tuple[str, ...]) -> bool:
        del path
        return True


def _sampler_difference(packed: Packed, old: np.ndarray) -> Quotient:
    """Mean |log-probability of the sampler - of the trainer| over answer tokens."""
    total, count = 0.0, 0
    for row, rollouts in enumerate(packed.rows):
        for segment, rollout in enumerate(rollouts, 1):
            here = (packed.batch.segments[row] == segment) & (packed.batch.weights[row] > 0)
            total += float(np.abs(old[row][here] - rollout.answer.logps).sum(dtype=np.float64))
            count += int(here.sum())
    return total, count
