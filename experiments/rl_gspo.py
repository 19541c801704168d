"""Reinforcement by rules: GSPO on temporal grounding (IoU) and multiple choice (right or wrong).

At tiny size an agent's calls are judged as well, by the share of right arguments.

    ivx train --config=experiments/rl_gspo.py:tiny --workdir=DIR --config.run.start=LONG \\
        --config.data.mixture=DATA/data.json

The release names its rewards and publishes no numbers; those of `8b` are ours, the clip range is
that of arXiv 2507.18071, rate and group size are what TimeLens uses for Qwen3-VL-8B.

8b    64 questions a rollout, 8 answers each, 4 steps a rollout.
tiny  8 questions a rollout: about three minutes on two CPU cores.

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
        raise UserError(f"rl_gspo has no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    config.run.follows = "`ivx train --config=experiments/sft_long.py`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = configs.base()
    config.model.update(preset="8b", dtype="bfloat16", remat="attention")
    config.optim.update(learning_rate=1e-6, floor=1e-6, warmup=0.0, weight_decay=0.0)
    config.data.update(
        tokenizer="qwen3",
        train=("rl",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=32,
    )
    config.stage.update(
        name="gspo", prompts=64, group=8, minibatches=4, temperature=1.0, max_new_tokens=1024
    )
    config.run.update(steps=400, save_every=40)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.optim.update(learning_rate=1e-4, floor=1e-4, warmup=0.0, weight_decay=0.0)
    config.data.update(
        # An agent's steps too: a model that is judged by short answers alone unlearns its calls.
        train=("synthetic_judged", "synthetic_steps"),
        validation=(),
        pack_tokens=1024,
        pack_patches=864,
        batch_packs=2,
    )
    # At this size the published clip range of 3e-4 lets hardly any answer through after one step.
    config.stage.update(
        name="gspo",
        prompts=8,
        group=8,
        minibatches=2,
        max_new_tokens=56,
        clip_low=0.02,
        clip_high=0.03,
        # Calls of an agent are rare among what is judged, and were unlearned without this.
        rehearse=("synthetic_traces",),
        rehearsal=0.5,
    )
    config.run.update(steps=80, log_every=2, save_every=20)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
