"""Rollouts: the model in training answers questions, and its answers become the training batch.

    questions --(Sampler with the current parameters, `group` answers each)--> Rollout
    rollouts --(packing)--> Batch with loss on the answers only

Rollout k depends only on the seed, k and the parameters, so a resumed run samples it again. (If
videos cannot be read, their replacements also depend on the number of hosts.) With several hosts,
each has its own questions, all hosts sample together, and each packs the answers to its questions.

Shapes: an answer is a list of tokens; a packed batch is [B, T].
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from data_pipelines import bin_packing, packing
from data_pipelines.batch import Batch
from data_pipelines.frame_cache import Pixels
from data_pipelines.layout import Layout
from data_pipelines.loader import LoadedBatch, stack
from data_pipelines.media_error import SkippedSample
from data_pipelines.sources import Sample
from ivx.models.definition import Params
from ivx.parallel import across_hosts
from ivx.sampling.sampler import Answer, Sampler
from ivx.stages.questions import Questions
from ivx.text.tokenizer import Tokenizer

# Separates the random stream of sampling from others with the same seed.
_SAMPLING_STREAM = 3

# A metric as (numerator, denominator).
Quotient = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
    """How answers are sampled.

    Attributes:
      group: answers per question.
      temperature: of sampling; 1 is the model's own distribution.
      limit: maximum tokens of an answer, including the closing token.
      seed: of sampling.
    """

    group: int
    temperature: float
    limit: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One answer to one question; `ended` is false if the answer was truncated."""

    sample: Sample
    prompt: Layout
    pixels: Pixels
    answer: Answer
    text: str
    ended: bool


class Roller:
    """Samples rollouts.

    Args:
      questions: the questions of each rollout.
      tokenizer: decodes the answers.
      sampler: its parameters are replaced by those in training.
      spec: how answers are sampled.
    """

    def __init__(
        self, questions: Questions, tokenizer: Tokenizer, sampler: Sampler, spec: RolloutSpec
    ) -> None:
        self._questions, self._tokenizer = questions, tokenizer
        self._sampler, self._spec = sampler, spec

    @property
    def families(self) -> list[str]:
        """Families of all questions, on all hosts."""
        return self._questions.families

    def roll(self, params: Params, number: int) -> tuple[list[Rollout], list[SkippedSample]]:
        """This host's share of rollout `number`, and the reason for each skipped video.

        The answers of a group are adjacent.
        """
        questions, skipped = self._questions.rollout(number)
        spec = self._spec
        key = jax.random.fold_in(jax.random.key(spec.seed), number)
        answers = self._sampler.at(params).sample(
            [question.layout for question in questions],
            [question.pixels for question in questions],
            spec.limit,
            spec.group,
            spec.temperature,
            jax.random.fold_in(key, _SAMPLING_STREAM),
        )
        rollouts = []
        for i, answer in enumerate(answers):
            question = questions[i // spec.group]
            ended = answer.tokens[-1] == self._tokenizer.end_of_turn
            text = self._tokenizer.decode(answer.tokens)
            rollouts.append(
                Rollout(question.sample, question.layout, question.pixels, answer, text, ended)
            )
        return rollouts, skipped


def with_answer(rollout: Rollout) -> Layout:
    """The prompt and its answer as one sample, with loss on the answer."""
    prompt, length = rollout.prompt, len(rollout.answer.tokens)
    positions = int(prompt.positions[:, -1].max()) + 1 + np.arange(length)
    return Layout(
        prompt.sample_id,
        np.concatenate([prompt.tokens, np.asarray(rollout.answer.tokens, np.int32)]),
        np.concatenate([np.zeros(len(prompt.tokens), bool), np.ones(length, bool)]),
        np.concatenate([prompt.positions, np.tile(positions, (3, 1)).astype(np.int32)], 1),
        np.concatenate([prompt.is_visual, np.zeros(length, bool)]),
        prompt.clips,
    )


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rollouts as a batch.

    Attributes:
      batch: the arrays.
      rows: the rollouts of each pack, in the order of segments 1, 2, ...
    """

    batch: Batch
    rows: list[list[Rollout]]


def pack(rollouts: Sequence[Rollout], shape: packing.PackShape, packs: int) -> Packed:
    """Packs all rollouts into a multiple of `packs` packs.

    Rounding up keeps every answer and limits the number of compiled shapes. Each rollout must fit
    into a pack. All hosts make as many packs as the host that needs most.
    """
    layouts = [with_answer(rollout) for rollout in rollouts]
    sizes = bin_packing.Sizes.of([packing.size_of(layout) for layout in layouts])
    bins = bin_packing.fill(sizes, shape)
    [multiple] = across_hosts.largest([max(1, -(-len(bins) // packs))])
    bins += [[] for _ in range(multiple * packs - len(bins))]
    rows = [
        packing.assemble([layouts[i] for i in row], [rollouts[i].pixels for i in row], shape)
        for row in bins
    ]
    batch = stack([LoadedBatch(row, ()) for row in rows]).batch
    return Packed(batch, [[rollouts[i] for i in row] for row in bins])


def lengths(rollouts: Sequence[Rollout]) -> dict[str, Quotient]:
    """Metrics of the mean answer length and the share of truncated answers."""
    tokens = sum(len(rollout.answer.tokens) for rollout in rollouts)
    unfinished = sum(not rollout.ended for rollout in rollouts)
    return {
        "rl/answer_tokens": (tokens, len(rollouts)),
        "rl/unfinished": (unfinished, len(rollouts)),
    }


def means(quotients: dict[str, Quotient]) -> dict[str, float]:
    """Means over all hosts, which must pass the same names; drops those with denominator 0."""
    sums = across_hosts.total([part for quotient in quotients.values() for part in quotient])
    pairs = zip(quotients, sums.reshape(-1, 2).tolist(), strict=True)
    return {name: total / weight for name, (total, weight) in pairs if weight}


def per_token(packed: Packed, values: dict[int, float]) -> np.ndarray:
    """Spreads one value per rollout, keyed by `id`, to its tokens; 0 elsewhere. float32 [B, T]."""
    out = np.zeros(packed.batch.segments.shape, np.float32)
    for row, rollouts in enumerate(packed.rows):
        for segment, rollout in enumerate(rollouts, 1):
            out[row][packed.batch.segments[row] == segment] = values[id(rollout)]
    return out
