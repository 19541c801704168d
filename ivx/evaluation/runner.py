"""Runs a model on every question of a data set and collects its answers."""

import dataclasses
from collections.abc import Sequence

from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from ivx import progress
from ivx.errors import UserError
from ivx.evaluation import text_only
from ivx.evaluation.scoring import Prediction
from ivx.sampling import sampler as sampling
from ivx.text import thinking
from ivx.text.chat_template import TemplateError

# Data sets often have several questions about one clip.
_CACHE_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Predictions, and the reason for each skipped question."""

    predictions: list[Prediction]
    skipped: list[str]


def as_prompt(sample: Sample) -> Sample:
    """The sample without a final assistant turn."""
    if sample.messages[-1]["role"] != "assistant":
        return sample
    return dataclasses.replace(sample, messages=sample.messages[:-1])


def run(
    sampler: sampling.Sampler,
    rule: LayoutRule,
    samples: Sequence[Sample],
    limit: int,
    batch_size: int,
    enable_thinking: bool | None = None,
) -> Outcome:
    """Answers the last question of each sample greedily.

    Args:
      sampler: the model.
      rule: lays out prompts.
      samples: one question each, with truths.
      limit: maximum tokens of an answer.
      batch_size: prompts per batch.
      enable_thinking: how the open turn begins, see `ivx.text.chat_template`.

    Raises:
      UserError: no question could be answered.
    """
    usable, layouts, skipped = [], [], []
    for sample in samples:
        try:
            layouts.append(rule.lay_out(as_prompt(sample), True, enable_thinking))
            usable.append(sample)
        except (MediaError, TemplateError) as error:
            skipped.append(f"sample {sample.id}: {error}")
    cache = FrameCache(_CACHE_BYTES)
    predictions = []
    with progress.Bar(len(usable), "evaluate", "questions") as bar:

        def answer(indices: list[int]) -> None:
            readable, pixels = [], []
            for index in indices:
                try:
                    pixels.append(cache.read(layouts[index]))
                    readable.append(index)
                except MediaError as error:
                    skipped.append(f"sample {usable[index].id}: {error}")
            if readable:
                tokens = sampler.generate([layouts[i] for i in readable], pixels, limit)
                for index, ids in zip(readable, tokens, strict=True):
                    turn = thinking.whole_turn(rule.tokenizer.decode(ids), enable_thinking)
                    predictions.append(_prediction(usable[index], turn))
            bar.advance(len(indices))

        sampling.run_in_batches(answer, layouts, batch_size)
    if not predictions:
        raise UserError(
            f"none of the {len(samples)} questions could be answered;"
            f" the first failed with: {skipped[0]}"
        )
    return Outcome(sorted(predictions, key=lambda prediction: prediction.sample_id), skipped)


def _prediction(sample: Sample, text: str) -> Prediction:
    question, truth = text_only.questions(sample)[-1]
    media = [*sample.videos, *sample.images]
    path = media[0].path if media else ""
    return Prediction(sample.id, truth["family"], question, truth, path, text)
