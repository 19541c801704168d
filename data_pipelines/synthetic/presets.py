"""Which data sets are written: their splits, and what each split is made of.

tiny    the walk from files to answers: training, validation and test, all families
base    captions and short questions, from which the recipe's base model learns
teacher short and long clips of all families, for the teacher of the distillation
recipe  what the stages of the recipe train on, and the videos on which all are compared
conversion  what a conversion calibrates on, heals with and is compared on: the families of base
test    a handful of clips of every family
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Split:
    """One data set.

    Attributes:
      clips: how many.
      shares: family -> relative share of the clips.
      asked: `conversation`, all questions of a clip one after another; `one`, a sample for each
        question of the clip's own family; `both`, such samples openly and as multiple choice;
        `traces`, an agent's search for a needle and the labels it needs; `words`, such a search
        without frames; `steps`, one turn of a search as a question; `agent`, the question that the
        agent would answer.
      choices: the share of each family's questions that is asked as multiple choice; where samples
        are asked `both` ways it is not looked at.
      thinking: the share of questions that ask for a thought before the answer.
    """

    clips: int
    shares: dict[str, float]
    asked: str = "both"
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
# To find the letter of an option is learnt on what is easily seen; what is hard to see is learnt
# sooner from open questions.
_TINY_CHOICES = {"attribute": 0.2, "counting": 0.2, "motion": 0.05, "order": 0.05, "needle": 0.05}
# Times are read off slowly: without many such questions a few hundred steps do not learn it.
_SHORT = _TINY | {"grounding": 0.45}
_BASE = {"attribute": 0.18, "counting": 0.16, "motion": 0.24, "order": 0.22, "caption": 0.20}
_LONG = {"long_grounding": 0.3, "long_needle": 0.3, "grounding": 0.2, "order": 0.1, "motion": 0.1}
# With some of what short videos ask, which would be forgotten otherwise.
_LONG_AND_OLD = {
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
    """The splits of the recipe, with `scale` times as many clips to train on."""

    def clips(count: int) -> int:
        return round(scale * count)

    return {
        "cpt": Split(clips(2400), _BASE, "conversation", _half(_BASE)),
        "short": Split(clips(4000), _SHORT, "conversation", _half(_SHORT), thinking=0.1),
        "words": Split(clips(1500), _AGENT, "words"),
        "long": Split(
            clips(900), _LONG_AND_OLD, "conversation", _half(_LONG_AND_OLD), thinking=0.1
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


def _evenly(families) -> dict[str, float]:
    return dict.fromkeys(families, 1.0)


def _half(families) -> dict[str, float]:
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
    "recipe": _recipe(1.0),
    "recipe_quick": _recipe(0.05),
    "test": {
        "train": Split(14, _evenly(_TINY), "conversation", dict.fromkeys(_TINY, 0.3)),
        "validation": Split(7, _evenly(_TINY)),
        "test": Split(7, _evenly(_TINY)),
    },
}
