"""On-policy distillation: the student answers, a larger teacher corrects every token.

    ivx train --config=experiments/opd.py:tiny --workdir=DIR --config.run.start=RL \\
        --config.stage.teacher=TEACHER --config.data.mixture=DATA/data.json

The release names the teacher's family (Qwen3-235B) and publishes no numbers: all are ours.

8b    64 questions a step; a teacher with the same tokenizer that fits beside the student.
tiny  16 questions a step; the teacher is assets/tiny-teacher: about three minutes on two CPU cores.

Started again with the same command, a run goes on from its last checkpoint.
"""

import ml_collections

from ivx import config as configs
from ivx.errors import UserError


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"opd has no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    config.run.follows = "`ivx train --config=experiments/rl_gspo.py`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = configs.base()
    config.model.update(preset="8b", dtype="bfloat16", remat="attention")
    config.optim.update(learning_rate=1e-6, floor=1e-6, warmup=0.0, weight_decay=0.0)
    config.data.update(
        tokenizer="qwen3",
        train=("opd",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=32,
    )
    config.stage.update(
        name="opd", prompts=64, group=1, minibatches=1, temperature=1.0, max_new_tokens=2048
    )
    config.run.update(steps=200, save_every=40)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.optim.update(learning_rate=2e-4, floor=1e-5, warmup=0.05, weight_decay=0.0)
    config.data.update(
        train=("synthetic_prompts",),
        validation=(),
        max_frames=32,
        max_pixels=32 * 64 * 64,
        pack_tokens=1024,
        pack_patches=864,
        batch_packs=2,
    )
    config.stage.update(name="opd", prompts=16, group=1, minibatches=1)
    config.stage.max_new_tokens = 32
    # The teacher knows no calls of an agent.
    config.stage.update(rehearse=("synthetic_traces",), rehearsal=0.5)
    config.run.update(steps=48, log_every=2, save_every=16)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
