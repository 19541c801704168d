"""Compares two models on the same prompts: how much they differ, and from which module on.

    distance of a module = max over tokens t of |a_t - b_t| / |a_t|    Euclidean norm over channels
    KL of a token        = sum_v p_a(v) (log p_a(v) - log p_b(v))      p = softmax of the logits

The distance is a maximum over tokens, so one wrong token is not averaged away.

Shapes: module outputs [tokens, channels], logits [tokens, vocabulary].
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

LOGITS = "lm_head"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """One model's outputs for one prompt.

    Attributes:
      parts: HF module name -> its output, float32 [tokens, channels], in order of computation; the
        logits are last.
      text: the greedy answer.
    """

    parts: dict[str, np.ndarray]
    text: str


@dataclasses.dataclass(frozen=True)
class Part:
    """Difference of two models after one module.

    Attributes:
      name: of the HF module.
      distance: of the worst token; infinite if a value is not finite.
      max_abs: largest absolute difference.
      prompt: name of the worst token's prompt.
      token: index of the worst token among the compared ones.
    """

    name: str
    distance: float
    max_abs: float
    prompt: str
    token: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """Difference of two models' logits on one prompt, and their answers.

    Attributes:
      prompt: its name.
      tokens: number of compared tokens.
      max_abs: largest absolute difference of logits.
      mean_abs: mean absolute difference of logits.
      kl: mean over tokens, in nats.
      kl_max: of the worst token, in nats.
      texts: both greedy answers.
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
    """Differences by prompt and by module; by logits only for models of different sizes."""

    prompts: list[Answers]
    parts: list[Part]

    def departure(self, tolerance: float) -> Part | None:
        """The first module whose distance exceeds `tolerance`; None if there is none."""
        return next((part for part in self.parts if not part.distance <= tolerance), None)


def compare(names: Sequence[str], first: Sequence[Outputs], second: Sequence[Outputs]) -> Agreement:
    """Compares the outputs of two models, prompt by prompt, on the same tokens."""
    parts = {}
    for prompt, a, b in zip(names, first, second, strict=True):
        for name in _shared(a.parts, b.parts):
            part = _part(name, prompt, a.parts[name], b.parts[name])
            # Not every prompt has every module: text alone skips the tower.
            worst = parts.setdefault(name, part)
            parts[name] = dataclasses.replace(
                max(worst, part, key=lambda p: p.distance),
                max_abs=max(worst.max_abs, part.max_abs),
            )
    order = max((outputs.parts for outputs in first), key=len)
    return Agreement(
        [_answers(*row) for row in zip(names, first, second, strict=True)],
        [parts[name] for name in order if name in parts],
    )


def _shared(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[str]:
    """All modules if both models have the same depths and widths, else the logits."""
    shapes = ({name: a.shape for name, a in parts.items()} for parts in (first, second))
    return list(first) if next(shapes) == next(shapes) else [LOGITS]


def _part(name: str, prompt: str, a: np.ndarray, b: np.ndarray) -> Part:
    difference = np.abs(a - b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        broken = int(np.argmin((np.isfinite(a) & np.isfinite(b)).all(-1)))
        return Part(name, np.inf, np.inf, prompt, broken)
    error, norm = np.linalg.norm(difference, axis=-1), np.linalg.norm(a, axis=-1)
    with np.errstate(divide="ignore"):
        distance = np.divide(error, norm, out=np.zeros_like(error), where=error > 0)
    token = int(distance.argmax())
    return Part(name, float(distance[token]), float(difference.max()), prompt, token)


def _answers(prompt: str, first: Outputs, second: Outputs) -> Answers:
    a, b = first.parts[LOGITS], second.parts[LOGITS]
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
        # Token by token: float64 logits of a 151,936-row vocabulary are large.
        kl = [_divergence(*pair) for pair in zip(a, b, strict=True)]
    return Answers(
        prompt,
        len(a),
        float(difference.max()),
        float(difference.mean()),
        float(np.mean(kl)),
        float(np.max(kl)),
        (first.text, second.text),
    )


def _divergence(a_v: np.ndarray, b_v: np.ndarray) -> float:
    """KL(a || b) in nats, clipped at 0 against rounding."""
    log_a, log_b = (_log_softmax(row.astype(np.float64)) for row in (a_v, b_v))
    divergence = float(np.exp(log_a) @ (log_a - log_b))
    return 0.0 if divergence < 0 else divergence


def _log_softmax(row_v: np.ndarray) -> np.ndarray:
    shifted = row_v - row_v.max()
    return shifted - np.log(np.exp(shifted).sum())
