"""Presets: the splits of each synthetic data set, with their families and question styles.

tiny          the getting-started walk-through: training, validation and test on short families
base          captions and short questions, for the base model of the recipe
teacher       short and long clips of all families, for the teacher in distillation
demo          training splits of the demo, and the splits on which it compares models
recipe        training splits for the stages of the recipe, and the splits that compare them
recipe_quick  recipe with a twentieth of the training clips
conversion    calibration, healing and evaluation data of an attention conversion; families of base
test          a few clips of every family in tiny
"""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Split:
    """One data set.

    Attributes:
      clips: number of clips.
      shares: family -> relative share of the clips.
      style: which samples a clip gives:
        `conversation`: one sample with all questions of the clip as turns;
        `one`: a sample for each question of the clip's family;
        `both`: as `one`, but open-ended and, where possible, as multiple choice too;
        `traces`: an agent trace that searches for a needle, and samples that label shots;
        `words`: such a search without frames;
        `steps`: a trace cut off after one of its calls, which is the expected answer;
        `agent`: the question that an agent would answer.
      choices: family -> fraction of its questions asked as multiple choice; unused for `both`.
      thinking: fraction of questions that ask for a thought before the answer.
    """

    clips: int
    shares: dict[str, float]
    style: str = "both"
    choices: dict[str, float] = dataclasses.field(default_factory=dict)
    thinking: float = 0.0


Preset = dict[str, Split]

_TINY = {
    "attribute": 0.21,
    "counting": 0.14,
    "motion": 0.19,
    "order": 0.18,
    "grounding": 0.13,
    "needle": 0.04,
    "caption": 0.11,
}
# Models learn to find an option's letter on families that are easy to see. Families that are hard
# to see are learned faster from open-ended questions.
_TINY_CHOICES = {"attribute": 0.2, "counting": 0.2, "motion": 0.05, "order": 0.05, "needle": 0.05}
# Temporal grounding is learned slowly: with fewer of these questions, a few hundred steps are not
# enough.
_SHORT = _TINY | {"grounding": 0.45}
_BASE = {"attribute": 0.18, "counting": 0.16, "motion": 0.24, "order": 0.22, "caption": 0.20}
_LONG = {"long_grounding": 0.3, "long_needle": 0.3, "grounding": 0.2, "order": 0.1, "motion": 0.1}
# Includes families of short videos, which the model would otherwise forget.
_LONG_AND_SHORT = {
    "long_grounding": 0.28,
    "long_needle": 0.24,
    "grounding": 0.2,
    "order": 0.07,
    "motion": 0.07,
    "counting": 0.07,
    "caption": 0.07,
}
_AGENT = {"agent": 1.0}
_JUDGED = {
    "attribute": 0.1,
    "counting": 0.1,
    "motion": 0.1,
    "order": 0.1,
    "grounding": 0.3,
    "long_grounding": 0.3,
}


def _recipe(scale: float) -> Preset:
    """The splits of the recipe, with the number of training clips multiplied by `scale`."""

    def clips(count: int) -> int:
        return round(scale * count)

    return {
        "cpt": Split(clips(2400), _BASE, "conversation", _half(_BASE)),
        "short": Split(clips(4000), _SHORT, "conversation", _half(_SHORT), thinking=0.1),
        "words": Split(clips(1500), _AGENT, "words"),
        "long": Split(
            clips(900), _LONG_AND_SHORT, "conversation", _half(_LONG_AND_SHORT), thinking=0.1
        ),
        "traces": Split(clips(1000), _AGENT, "traces"),
        "judged": Split(clips(800), _JUDGED, "one", dict.fromkeys(_JUDGED, 1.0)),
        "steps": Split(clips(150), _AGENT, "steps"),
        "prompts": Split(clips(800), _TINY | _LONG, "one", _half(_TINY | _LONG)),
        "validation": Split(140, _TINY),
        "test": Split(210, _TINY),
        "test_long": Split(100, _evenly(("long_grounding", "long_needle"))),
        "test_agent": Split(40, _AGENT, "agent"),
    }


def _demo() -> Preset:
    """The splits of the demo: enough for a few hundred steps, small enough to write in seconds."""
    return {
        "cpt": Split(900, _BASE, "conversation", _half(_BASE)),
        "short": Split(2200, _SHORT, "conversation", _half(_SHORT)),
        "words": Split(400, _AGENT, "words"),
        "validation": Split(70, _TINY),
        "test": Split(160, _TINY),
        "test_agent": Split(4, _AGENT, "agent"),
    }


def _evenly(families: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(families, 1.0)


def _half(families: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(families, 0.5)


PRESETS: dict[str, Preset] = {
    "tiny": {
        "train": Split(8000, _TINY, "conversation", _TINY_CHOICES),
        "validation": Split(140, _TINY),
        "test": Split(420, _TINY),
    },
    "base": {
        "train": Split(24000, _BASE, "conversation", _half(_BASE)),
        "validation": Split(240, _BASE),
        "test": Split(600, _BASE),
    },
    "teacher": {
        "short": Split(16000, _TINY, "conversation", _half(_TINY), thinking=0.1),
        "long": Split(1600, _LONG, "conversation", _half(_LONG), thinking=0.1),
        "validation": Split(140, _TINY),
        "test": Split(420, _TINY),
        "test_long": Split(120, _evenly(("long_grounding", "long_needle"))),
    },
    "conversion": {
        "train": Split(1600, _BASE, "conversation", _half(_BASE)),
        "validation": Split(120, _BASE),
        "test": Split(240, _BASE),
    },
    "demo": _demo(),
    "recipe": _recipe(1.0),
    "recipe_quick": _recipe(0.05),
    "test": {
        "train": Split(14, _evenly(_TINY), "conversation", dict.fromkeys(_TINY, 0.3)),
        "validation": Split(7, _evenly(_TINY)),
        "test": Split(7, _evenly(_TINY)),
    },
}
