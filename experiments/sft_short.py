"""Supervised fine-tuning on short videos (InternVideo3_sft/configs/internvideo3_sft_short.py).

    ivx train --config=experiments/sft_short.py:tiny --workdir=DIR --config.run.start=HEALED \\
        --config.data.mixture=DATA/data.json

8b      the published numbers: 65,536 tokens a pack, 128 packs a step, 2 frames a second up to 768.
tiny    the same stage on the synthetic world: about four minutes on two CPU cores.
scratch as tiny, but from new parameters and longer: no stage before it, about 12 minutes.

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
        raise UserError(f"sft_short has no preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]()


def _published() -> ml_collections.ConfigDict:
    config = configs.base()
    config.model.update(preset="8b", dtype="bfloat16", remat="attention")
    # Where config file and README table of the release disagree, the config file is followed.
    config.optim.update(learning_rate=3e-5, floor=1e-6, warmup=0.1, weight_decay=0.05)
    config.data.update(
        tokenizer="qwen3",
        train=("sft_short",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=128,
    )
    config.run.follows = "`ivx train --config=experiments/cpt.py`"
    # The release trains one epoch of "part of" 7.2 M samples; its length in steps is not
    # published. Ours.
    config.run.update(steps=2000, save_every=500, validate_every=500)
    return config


def _scratch() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.optim.update(learning_rate=7e-4, floor=3e-5, warmup=0.06)
    config.run.update(
        steps=1000, log_every=10, save_every=150, validate_every=150, validate_packs=60
    )
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.optim.update(learning_rate=6e-4, floor=1e-5, warmup=0.05)
    config.data.train = ("synthetic_short", "synthetic_words")
    config.run.follows = "`ivx train --config=experiments/cpt.py`"
    config.run.update(steps=240, log_every=5, save_every=80, validate_every=80, validate_packs=60)
    return config


PRESETS = {"tiny": _tiny, "scratch": _scratch, "8b": _published}
