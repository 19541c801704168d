"""The complete recipe: every stage starts from the checkpoint of the previous one.

    ivx recipe --config=recipe:tiny --workdir=DIR

    base -> convert -> cpt -> sft_short -> sft_long -> rl_gspo -> opd -> agent -> export

demo   base, conversion, fine-tuning on short videos, agent, export: 8 to 10 minutes on two CPU
       cores.
tiny   all stages on the synthetic world, which is generated first: 25 to 45 minutes on two CPU
       cores.
quick  all stages with few steps, as a smoke test: 3 to 6 minutes.
8b     the published sizes and settings. Needs a pod, the vocabulary (pip install 'ivx[qwen]'), the
       folder of Qwen3-VL-8B-Instruct (--config.base), a teacher (--config.teacher), and a mixture
       (--config.mixture) with the data sets that the experiments and `evaluate.splits` name.

Distillation is skipped if no teacher is named. Rerun the same command to resume a recipe.
"""

import ml_collections

from ivx.errors import UserError
from ivx.suggestion import did_you_mean

PRESETS = ("demo", "tiny", "quick", "8b")
STAGES = ("base", "convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd", "agent", "export")


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(
            f"recipe has no preset {preset!r}; there are {', '.join(PRESETS)}"
            f"{did_you_mean(preset, PRESETS)}"
        )
    config = ml_collections.ConfigDict()
    config.preset = "8b" if preset == "8b" else "tiny"  # preset of each stage's experiment
    config.seed = 0
    config.stages = STAGES
    config.base = ""  # Hugging Face folder of a model with grouped attention
    config.from_scratch = False  # train the base instead of loading it
    config.teacher = ""  # Hugging Face folder of the teacher
    config.synthesize = ""  # preset of the synthetic data to generate; "": use the mixture below
    config.mixture = ""
    config.calibration_packs = 0  # 0: the experiment's number
    config.validate_packs = 0  # 0: the experiment's number
    config.steps = dict.fromkeys(
        ("base", "convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd"), 0
    )
    config.evaluate = {
        # Data set -> the experiment whose frame and size settings all models use.
        "splits": {"test": "sft_short", "test_long": "sft_long"},
        "questions": 0,  # per split; 0: all
        "batch": 32,
        "max_new_tokens": 48,
    }
    # The agent and the single pass have the same number of frames in their context. At tiny size it
    # is enough for an overview and one inspected span.
    config.agent = {"split": "test_agent", "questions": 40, "frames": 64, "max_new_tokens": 256}
    if preset != "8b":
        config.base = "assets/tiny-base"
        config.teacher = "assets/tiny-teacher"
        config.synthesize = "recipe" if preset == "tiny" else "recipe_quick"
        config.evaluate.splits = {
            "synthetic_test": "sft_short",
            "synthetic_test_long": "sft_long",
        }
        config.agent.update(split="synthetic_test_agent", frames=20, max_new_tokens=64)
    if preset == "demo":
        config.stages = ("base", "convert", "sft_short", "agent", "export")
        config.synthesize = "demo"
        config.calibration_packs = 128
        config.validate_packs = 24
        config.steps.update(convert=60, sft_short=190)
        config.evaluate.splits = {"synthetic_test": "sft_short"}
        config.evaluate.questions = 240
        # It learns tool calls in sft_long, so here it shows what a trace is, and no skill.
        config.agent.questions = 4
    if preset == "quick":
        config.calibration_packs = 24
        config.steps.update(base=8, convert=8, cpt=8, sft_short=8, sft_long=6, rl_gspo=4, opd=4)
        config.evaluate.questions = 48
        config.agent.questions = 4
    return config.lock()
