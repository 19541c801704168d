"""Two models on the same prompts: how far apart, and from which part on.

    distance of a part  = max over tokens t of |a_t - b_t| / |a_t|     Euclidean, over the channels
    KL of a token       = sum_v p_a(v) (log p_a(v) - log p_b(v))       p = softmax of the logits

The distance is of single tokens, so that one wrong token is not lost among many right ones.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

LOGITS = "lm_head"


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a model gave for one prompt.

    Attributes:
      parts: output of each part in the order of computation, float32 [tokens, channels], under
        the name that its HF module has; the logits come last.
      text: its greedy answer.
    """

    parts: dict[str, np.ndarray]
    text: str


@dataclasses.dataclass(frozen=True)
class Part:
    """How far two models are apart after one part.

    Attributes:
      name: of the HF module.
      distance: of the worst token; infinite where a number is not finite.
      max_abs: largest difference of two numbers.
      prompt: where the worst token is.
      token: its number among the tokens compared.
    """

    name: str
    distance: float
    max_abs: float
    prompt: str
    token: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """How far apart the logits of one prompt are, and what both answer.

    Attributes:
      prompt: its name.
      tokens: how many were compared.
      max_abs: largest difference of two logits.
      mean_abs: mean of all.
      kl: mean over tokens, in nats.
      kl_max: of the worst token.
      texts: the greedy answers.
    """

    prompt: str
    tokens: int
    max_abs: float
    mean_abs: float
    kl: float
    kl_max: float
    texts: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Prompts, and the parts that both models have; of models of other sizes only the logits."""

    prompts: list[Answers]
    parts: list[Part]

    def departure(self, tolerance: float) -> Part | None:
        """The first part whose distance is above `tolerance`."""
        return next((part for part in self.parts if not part.distance <= tolerance), None)


def compare(names: Sequence[str], first: Sequence[Seen], second: Sequence[Seen]) -> Agreement:
    """Compares what two models gave for prompts of these names, on the same tokens."""
    parts = {}
    for name, one, other in zip(names, first, second, strict=True):
        for part in _shared(one.parts, other.parts):
            found = _part(part, name, one.parts[part], other.parts[part])
            worst = parts.setdefault(part, found)
            # The first prompt to have a part may not be the first of all.
            parts[part] = dataclasses.replace(
                max(worst, found, key=lambda p: p.distance),
                max_abs=max(worst.max_abs, found.max_abs),
            )
    order = max((one.parts for one in first), key=len)
    return Agreement(
        [_answers(*three) for three in zip(names, first, second, strict=True)],
        [parts[name] for name in order if name in parts],
    )


def _shared(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """All parts of models of the same depths and widths, else the last alone."""
    shapes = ({name: a.shape for name, a in parts.items()} for parts in (one, other))
    return list(one) if next(shapes) == next(shapes) else [LOGITS]


def _part(name: str, prompt: str, one: np.ndarray, other: np.ndarray) -> Part:
    difference = np.abs(one - other)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        broken = int(np.argmin((np.isfinite(one) & np.isfinite(other)).all(-1)))
        return Part(name, np.inf, np.inf, prompt, broken)
    apart, length = np.linalg.norm(difference, axis=-1), np.linalg.norm(one, axis=-1)
    with np.errstate(divide="ignore"):
        distance = np.divide(apart, length, out=np.zeros_like(apart), where=apart > 0)
    token = int(distance.argmax())
    return Part(name, float(distance[token]), float(difference.max()), prompt, token)


def _answers(prompt: str, one: Seen, other: Seen) -> Answers:
    a, b = one.parts[LOGITS], other.parts[LOGITS]
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
        # Token by token: at a vocabulary of 151,936 rows float64 takes room.
        kl = [_divergence(*pair) for pair in zip(a, b, strict=True)]
    return Answers(
        prompt,
        len(a),
        float(difference.max()),
        float(difference.mean()),
        float(np.mean(kl)),
        float(np.max(kl)),
        (one.text, other.text),
    )


def _divergence(a_v: np.ndarray, b_v: np.ndarray) -> float:
    """KL(a || b) in nats; rounding never makes it negative."""
    log_a, log_b = (_log_softmax(row.astype(np.float64)) for row in (a_v, b_v))
    divergence = float(np.exp(log_a) @ (log_a - log_b))
    return 0.0 if divergence < 0 else divergence


def _log_softmax(row_v: np.ndarray) -> np.ndarray:
    shifted = row_v - row_v.max()
    return shifted - np.log(np.exp(shifted).sum())
