"""Reinforcement learning with rule-based rewards: GSPO on temporal grounding and multiple choice.

    ivx train --config=rl_gspo:tiny --workdir=DIR --config.run.start=LONG \\
        --config.data.mixture=DATA/data.json

Grounding is rewarded by IoU, multiple choice by 1 or 0, and at tiny size also an agent's tool calls
by the fraction of correct arguments. The release names its rewards and publishes no numbers; those
of `8b` are ours. The clip range is that of arXiv 2507.18071, learning rate and group size are what
TimeLens uses for Qwen3-VL-8B.

8b    64 questions per rollout, 8 answers each, 4 steps per rollout. Needs a pod.
tiny  8 questions per rollout: about three minutes on two CPU cores.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from experiments import _policy
from ivx import config as configs


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    config = configs.from_preset("rl_gspo", PRESETS, preset)
    config.run.follows = "`ivx train --config=sft_long`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = _policy.published("gspo")
    config.data.train = ("rl",)
    config.stage.update(prompts=64, group=8, minibatches=4, temperature=1.0, max_new_tokens=1024)
    config.run.update(steps=400, save_every=40)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = _policy.tiny("gspo")
    config.optim.update(learning_rate=1e-4, floor=1e-4, warmup=0.0)
    # Includes agent steps: a model rewarded only for short answers unlearns its tool calls.
    config.data.train = ("synthetic_judged", "synthetic_steps")
    # At this size the published clip range of 3e-4 clips nearly every answer after one step.
    config.stage.update(
        prompts=8, group=8, minibatches=2, max_new_tokens=56, clip_low=0.02, clip_high=0.03
    )
    config.run.update(steps=80, log_every=2, save_every=20)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
