"""Supervised fine-tuning on short videos (InternVideo3_sft/configs/internvideo3_sft_short.py).

    ivx train --config=experiments/sft_short.py:tiny --workdir=DIR \\
        --config.data.mixture=DATA/data.json

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
    # Where config file and README table of the release disagree, the config file is followed.
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
    # The release trains one epoch of "part of" 7.2 M samples; its length in steps is not
    # published. Ours.
    config.run.update(steps=2000, save_every=500, validate_every=500)


def _tiny(config: ml_collections.ConfigDict) -> None:
    # Two devices of one thread keep two cores busier than one device of two.
    config.mesh.update(cpu_devices=2, replica=-1, fsdp=1)
    # A CPU multiplies float32 faster than bfloat16.
    config.model.update(preset="tiny", dtype="float32")
    config.optim.update(learning_rate=7e-4, floor=3e-5, warmup=0.06)
    # Half the published frame rate: the synthetic world moves slowly, and frames cost the time.
    config.data.update(
        tokenizer="compact",
        fps=1.0,
        min_frames=2,
        max_frames=16,
        min_pixels=4 * 32 * 32,
        max_pixels=16 * 64 * 64,
        pack_tokens=256,
        pack_patches=144,
        slice_block=48,
        batch_packs=12,
        cache_gib=1.0,
    )
    config.run.update(
        steps=1000, seed=0, log_every=10, save_every=150, validate_every=150, validate_packs=60
    )


PRESETS = {"tiny": _tiny, "8b": _published}
