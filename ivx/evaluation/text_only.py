"""A text-only baseline: naive Bayes from question words to answers, fitted on training data.

It sees no video. On balanced data it stays at chance; a higher score means that the questions leak
the answers.

    answer = argmax_a log p(a) + sum_w log p(w | a)    words w of the question, add-one smoothing
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

from data_pipelines.sources import Sample
from ivx.evaluation.scoring import Prediction
from ivx.text import chat_template


def questions(sample: Sample) -> list[tuple[str, dict]]:
    """Each question of a sample with its truth; empty if they do not match up."""
    texts = [_text(message) for message in sample.messages if message["role"] == "user"]
    if len(texts) != len(sample.truths):
        return []
    return list(zip(texts, sample.truths, strict=True))


@dataclasses.dataclass
class TextOnlyModel:
    """Counts of answers, and of question words per answer, by family and format."""

    _answers: dict[tuple, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    _words: dict[tuple, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    def fit(self, samples: Sequence[Sample]) -> "TextOnlyModel":
        """Adds the counts of training questions."""
        for sample in samples:
            for text, truth in questions(sample):
                group = (truth["family"], truth["format"])
                self._answers[group][truth["answer"]] += 1
                for word in _bag(text):
                    self._words[(*group, truth["answer"])][word] += 1
        return self

    def answer(self, family: str, kind: str, text: str) -> str:
        """The most likely answer to a question of this family; empty without training data."""
        group = (family, kind)
        counts = self._answers[group]
        total = sum(counts.values())

        def log_probability(answer: str) -> float:
            seen = counts[answer]
            with_answer = self._words[(*group, answer)]
            likelihood = sum(math.log((with_answer[word] + 1) / (seen + 2)) for word in _bag(text))
            return math.log(seen / total) + likelihood

        return max(sorted(counts), key=log_probability, default="")

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers every question of the samples."""
        return [
            Prediction(
                sample.id,
                truth["family"],
                text,
                truth,
                "",
                self.answer(truth["family"], truth["format"], text),
            )
            for sample in samples
            for text, truth in questions(sample)
        ]


def _text(message: dict) -> str:
    return chat_template.without_placeholders(chat_template.message_text(message, 0))


def _bag(text: str) -> set[str | tuple[str, str]]:
    """Words and bigrams, which are enough to recognise `A. red`."""
    words = re.findall(r"\w+", text)
    return set(words) | set(itertools.pairwise(words))
