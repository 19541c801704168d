"""Rollouts: the model under training answers questions, and the answers become its training batch.

    questions --(Sampler at the current parameters, `group` answers each)--> Rollout
    rollouts --(filling)--> Batch whose loss falls on the answers alone

Rollout k depends on the seed, k and the parameters only, so that a resumed run draws it again.
(Where videos cannot be read, what stands in their place depends on the number of hosts too.) Of
several hosts each asks questions of its own, draws together with the others, and packs the answers
to its own.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from data_pipelines import filling, packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.loader import Loaded, stack
from data_pipelines.media_error import Skipped
from data_pipelines.sources import Sample
from ivx.models.definition import Params
from ivx.parallel import over_hosts
from ivx.sampling.sampler import Answer, Sampler
from ivx.stages.questions import Questions
from ivx.text.tokenizer import Tokenizer

_DRAW = 3


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
    """How answers are drawn.

    Attributes:
      group: answers to each.
      temperature: of the draw; 1 is the model's own distribution.
      limit: tokens an answer may have, the closing one among them.
      seed: of the draws.
    """

    group: int
    temperature: float
    limit: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One answer to one question; `ended` tells whether the model closed its turn in time."""

    sample: Sample
    prompt: Layout
    pixels: tuple
    answer: Answer
    text: str
    ended: bool


class Roller:
    """Draws rollouts.

    Args:
      questions: what is asked.
      tokenizer: of the answers.
      sampler: with any parameters; they are replaced by those under training.
      spec: see there.
    """

    def __init__(
        self, questions: Questions, tokenizer: Tokenizer, sampler: Sampler, spec: RolloutSpec
    ):
        self._questions, self._tokenizer = questions, tokenizer
        self._sampler, self._spec = sampler, spec

    @property
    def families(self) -> list[str]:
        """Of all questions, whichever host asks them."""
        return self._questions.families

    def roll(self, params: Params, number: int) -> tuple[list[Rollout], list[Skipped]]:
        """This host's part of rollout `number`, and a sentence for each bad video.

        Groups of answers lie side by side.
        """
        asked, skipped = self._questions.of(number)
        spec = self._spec
        key = jax.random.fold_in(jax.random.key(spec.seed), number)
        answers = self._sampler.at(params).sample(
            [one.layout for one in asked],
            [one.pixels for one in asked],
            spec.limit,
            spec.group,
            spec.temperature,
            jax.random.fold_in(key, _DRAW),
        )
        rollouts = []
        for i, answer in enumerate(answers):
            one = asked[i // spec.group]
            ended = answer.tokens[-1] == self._tokenizer.end_of_turn
            text = self._tokenizer.decode(answer.tokens)
            rollouts.append(Rollout(one.sample, one.layout, one.pixels, answer, text, ended))
        return rollouts, skipped


def with_answer(rollout: Rollout) -> Layout:
    """The prompt and its answer as one sample; loss on the answer."""
    prompt, added = rollout.prompt, len(rollout.answer.tokens)
    after = int(prompt.positions[:, -1].max()) + 1 + np.arange(added)
    return Layout(
        prompt.sample_id,
        np.concatenate([prompt.tokens, np.asarray(rollout.answer.tokens, np.int32)]),
        np.concatenate([np.zeros(len(prompt.tokens), bool), np.ones(added, bool)]),
        np.concatenate([prompt.positions, np.tile(after, (3, 1)).astype(np.int32)], 1),
        np.concatenate([prompt.is_visual, np.zeros(added, bool)]),
        prompt.clips,
    )


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rollouts in a batch.

    Attributes:
      batch: the arrays.
      places: for each pack the rollouts in it, the first being segment 1.
    """

    batch: Batch
    places: list[list[Rollout]]


def pack(rollouts: Sequence[Rollout], shape: packing.PackShape, packs: int) -> Packed:
    """Packs all rollouts; the number of packs is rounded up to a multiple of `packs`.

    So no answer is left out, and few shapes are compiled. Each rollout fits into a pack by itself.
    All hosts make as many packs as the one that needs most.
    """
    layouts = [with_answer(rollout) for rollout in rollouts]
    sizes = filling.Sizes.of([packing.size_of(one) for one in layouts])
    bins = filling.fill(sizes, shape)
    [times] = over_hosts.largest([max(1, -(-len(bins) // packs))])
    bins += [[] for _ in range(times * packs - len(bins))]
    rows = [
        packing.assemble([layouts[i] for i in row], [rollouts[i].pixels for i in row], shape)
        for row in bins
    ]
    batch = stack([Loaded(row, ()) for row in rows]).batch
    return Packed(batch, [[rollouts[i] for i in row] for row in bins])


# A number to report, as numerator and denominator.
Quotient = tuple[float, float]


def lengths(rollouts: Sequence[Rollout]) -> dict[str, Quotient]:
    """How long answers are, and how many were cut off, for the log."""
    return {
        "rl/answer_tokens": (sum(len(one.answer.tokens) for one in rollouts), len(rollouts)),
        "rl/unfinished": (sum(not one.ended for one in rollouts), len(rollouts)),
    }


def means(quotients: dict[str, Quotient]) -> dict[str, float]:
    """Quotients over all hosts, which name the same; those of nothing are left out."""
    sums = over_hosts.total([part for quotient in quotients.values() for part in quotient])
    pairs = zip(quotients, sums.reshape(-1, 2).tolist(), strict=True)
    return {name: total / weight for name, (total, weight) in pairs if weight}


def per_token(packed: Packed, values: dict[int, float]) -> np.ndarray:
    """A number of each rollout (by `id`) at all its tokens, 0 elsewhere: float32 [B, T]."""
    out = np.zeros(packed.batch.segments.shape, np.float32)
    for row, placed in enumerate(packed.places):
        for segment, rollout in enumerate(placed, 1):
            out[row][packed.batch.segments[row] == segment] = values[id(rollout)]
    return out
