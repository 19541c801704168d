"""On-policy distillation: the student samples answers, and a larger teacher corrects every token.

    ivx train --config=opd:tiny --workdir=DIR --config.run.start=RL \\
        --config.stage.teacher=TEACHER --config.data.mixture=DATA/data.json

The release names the teacher's family (Qwen3-235B) and publishes no numbers: all settings are ours.

8b    64 questions per step; the teacher must share the student's tokenizer and fit next to it in
      device memory. Needs a pod.
tiny  16 questions per step; the teacher is assets/tiny-teacher: about three minutes on two CPU
      cores.

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
    config = configs.from_preset("opd", PRESETS, preset)
    config.run.follows = "`ivx train --config=rl_gspo`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = _policy.published("opd")
    config.data.train = ("opd",)
    config.stage.update(prompts=64, group=1, minibatches=1, temperature=1.0, max_new_tokens=2048)
    config.run.update(steps=200, save_every=40)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = _policy.tiny("opd")
    config.optim.update(learning_rate=2e-4, floor=1e-5, warmup=0.05)
    config.data.update(train=("synthetic_prompts",), max_frames=32, max_pixels=32 * 64 * 64)
    config.stage.update(prompts=16, group=1, minibatches=1, max_new_tokens=32)
    config.run.update(steps=48, log_every=2, save_every=16)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
