"""Continued pretraining, which heals a converted model (internvideo3_cpt.py of the release).

    ivx train --config=experiments/cpt.py:tiny --workdir=DIR --config.run.start=CONVERTED \\
        --config.data.mixture=DATA/data.json

8b    the published numbers: 65,536 tokens a pack, 128 packs a step, 2 frames a second up to 768.
tiny  captions and short questions of the synthetic world, and searches of an agent in words alone:
      about two minutes on two CPU cores.

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
        raise UserError(f"cpt has no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    config.run.follows = "`ivx convert`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = configs.base()
    config.model.update(preset="8b", dtype="bfloat16", remat="attention")
    config.optim.update(learning_rate=2e-5, floor=1e-6, warmup=0.03, weight_decay=0.05)
    config.data.update(
        tokenizer="qwen3",
        train=("cpt",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=128,
    )
    # One epoch of 13.5 G tokens at 8.39 M a step; the released SFT starts from step 1100 or so.
    config.run.update(steps=1610, save_every=1000, validate_every=1000)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    # Little is left to heal: a third of the rate that the base was trained with.
    config.optim.update(learning_rate=2.5e-4, floor=1e-5, warmup=0.05)
    config.data.train = ("synthetic_cpt", "synthetic_words")
    config.run.update(steps=100, log_every=5, save_every=50, validate_every=50, validate_packs=60)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
