"""Supervised fine-tuning on short videos (InternVideo3_sft/configs/internvideo3_sft_short.py).

    ivx train --config=experiments/sft_short.py:tiny --workdir=DIR --config.data.mixture=DATA/data.json

8b    the published numbers: 65,536 tokens a pack, 128 packs a step, 2 frames a second up to 768.
tiny  the same stage from scratch on the synthetic world: about 12 minutes on two CPU cores.

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
    config = configs.base()
    PRESETS[preset](config)
    return config


def _published(config: ml_collections.ConfigDict) -> None:
    config.model.update(preset="8b", dtype="bfloat16")
    # Where the config file and the README table of the release disagree, the config file is followed.
    config.optim.update(learning_rate=3e-5, floor=1e-6, warmup=0.1, weight_decay=0.05)
    config.data.update(
        tokenizer="",  # the folder of the Qwen3-VL tokenizer
        train=("sft_short",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=128,
    )
    # The release trains one epoch of "part of" 7.2 M samples; its length in steps is not published. Ours.
    config.run.update(steps=2000, save_every=500, validate_every=500)


def _tiny(config: ml_collections.ConfigDict) -> None:
    config.model.update(preset="tiny", dtype="float32")
    config.optim.update(learning_rate=1.5e-3, floor=5e-5, warmup=0.06)
    config.data.update(
        tokenizer="compact",
        max_frames=32,
        min_pixels=2 * 4 * 32 * 32,
        max_pixels=32 * 64 * 64,
        pack_tokens=384,
        pack_patches=384,
        batch_packs=10,
        cache_gib=1.5,
    )
    config.run.update(steps=700, seed=0, log_every=10, save_every=100, validate_every=100, validate_packs=20)


PRESETS = {"tiny": _tiny, "8b": _published}
