"""Supervised fine-tuning on short videos (InternVideo3_sft/configs/internvideo3_sft_short.py).

    ivx train --config=sft_short:tiny --workdir=DIR --config.run.start=HEALED \\
        --config.data.mixture=DATA/data.json

8b       the published settings: 65,536 tokens per pack, 128 packs per step, 2 frames per second up
         to 768 frames. Needs a pod.
tiny     the same stage on the synthetic world: about four minutes on two CPU cores.
scratch  as tiny, but longer and from new parameters, with no earlier stage: about 12 minutes.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from ivx import config as configs


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    return configs.from_preset("sft_short", PRESETS, preset)


def _published() -> ml_collections.ConfigDict:
    config = configs.published()
    # Follows the config file of the release where its README table disagrees.
    config.optim.update(learning_rate=3e-5, floor=1e-6, warmup=0.1, weight_decay=0.05)
    config.data.update(
        train=("sft_short",),
        pack_tokens=65536,
        batch_packs=128,
    )
    config.run.follows = "`ivx train --config=cpt`"
    # The release trains one epoch of "part of" 7.2 M samples. Its number of steps is not published;
    # this one is ours.
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
    config.run.follows = "`ivx train --config=cpt`"
    config.run.update(steps=240, log_every=5, save_every=80, validate_every=80, validate_packs=60)
    return config


PRESETS = {"tiny": _tiny, "scratch": _scratch, "8b": _published}
