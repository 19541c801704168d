"""Supervised fine-tuning on long videos (InternVideo3_sft/configs/internvideo3_sft_long.py).

    ivx train --config=sft_long:tiny --workdir=DIR --config.run.start=SHORT \\
        --config.data.mixture=DATA/data.json

8b    the published settings: 262,144 tokens per pack, 8 packs per step, 4 frames per second up to
      2,048 frames. Needs a pod.
tiny  longer clips of the synthetic world, twice as many frames, and agent traces written by an
      oracle: about six minutes on two CPU cores.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from ivx import config as configs


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    config = configs.from_preset("sft_long", PRESETS, preset)
    config.run.follows = "`ivx train --config=sft_short`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = configs.published()
    config.optim.update(learning_rate=1e-5, floor=1e-6, warmup=0.1, weight_decay=0.05)
    config.data.update(
        train=("sft_long",),
        fps=4.0,
        max_frames=2048,
        max_pixels=4 * 32768 * 4 * 32 * 32,
        pack_tokens=262144,
        pack_patches=1048576,
        batch_packs=8,
    )
    # 379 K videos. The number of steps is not published; this one is ours.
    config.run.update(steps=2000, save_every=100, validate_every=100)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.optim.update(learning_rate=5e-4, floor=1e-5, warmup=0.05)
    config.data.update(
        train=("synthetic_long", "synthetic_traces"),
        validation=("synthetic_validation",),
        fps=2.0,
        max_frames=32,
        max_pixels=32 * 64 * 64,
        pack_tokens=1024,
        pack_patches=864,
        batch_packs=4,
    )
    config.run.update(steps=220, log_every=5, save_every=55, validate_every=55, validate_packs=40)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
