"""The whole recipe, each stage from the checkpoint of the one before.

    ivx recipe --config=experiments/recipe.py:tiny --workdir=DIR

    base -> convert -> cpt -> sft_short -> sft_long -> rl_gspo -> opd -> agent -> export

tiny   on the synthetic world, which it writes first: 25 to 45 minutes on two CPU cores.
quick  the same stages with few steps, to see that all of them run: 3 to 6 minutes.
8b     the published sizes and numbers. Needs a pod, the vocabulary (pip install 'ivx[qwen]'), the
       folder of Qwen3-VL-8B-Instruct (--config.base), a teacher (--config.teacher), and a mixture
       (--config.mixture) with the data sets that the experiments and `evaluate.splits` name.

Distillation is left out where no teacher is named. Started again with the same command, a recipe
goes on where it stopped.
"""

import ml_collections

from ivx.errors import UserError

STAGES = ("base", "convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd", "agent", "export")


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in ("tiny", "quick", "8b"):
        raise UserError(f"recipe has no preset {preset!r}; there are tiny, quick, 8b")
    config = ml_collections.ConfigDict()
    config.preset = "8b" if preset == "8b" else "tiny"  # of every stage's experiment
    config.seed = 0
    config.stages = STAGES
    config.base = ""  # Hugging Face folder of a model with grouped attention
    config.from_scratch = False  # train the base instead
    config.teacher = ""  # Hugging Face folder of the distillation's teacher
    config.synthesize = ""  # preset of synthetic data to write; "": the mixture is the user's
    config.mixture = ""
    config.calibration_packs = 0  # 0: as the experiment says
    config.steps = dict.fromkeys(
        ("base", "convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd"), 0
    )
    config.evaluate = {
        # Data set -> the experiment whose frames and sizes all models are asked it with.
        "splits": {"test": "sft_short", "test_long": "sft_long"},
        "questions": 0,  # of each split; 0: all
        "batch": 32,
        "max_new_tokens": 48,
    }
    # Both the agent and the single pass have `frames` frames in their context: at tiny size enough
    # for an overview and one close look.
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
    if preset == "quick":
        config.calibration_packs = 24
        config.steps.update(base=8, convert=8, cpt=8, sft_short=8, sft_long=6, rl_gspo=4, opd=4)
        config.evaluate.questions = 48
        config.agent.questions = 4
    return config.lock()
