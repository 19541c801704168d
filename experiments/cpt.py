"""Continued pretraining of a converted model (internvideo3_cpt.py of the release).

    ivx train --config=cpt:tiny --workdir=DIR --config.run.start=CONVERTED \\
        --config.data.mixture=DATA/data.json

8b    the published settings: 65,536 tokens per pack, 128 packs per step, 2 frames per second up to
      768 frames. Needs a pod.
tiny  captions and short questions of the synthetic world, and text-only agent searches: about two
      minutes on two CPU cores.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from ivx import config as configs


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    config = configs.from_preset("cpt", PRESETS, preset)
    config.run.follows = "`ivx convert`"
    return config


def _published() -> ml_collections.ConfigDict:
    config = configs.published()
    config.optim.update(learning_rate=2e-5, floor=1e-6, warmup=0.03, weight_decay=0.05)
    config.data.update(
        train=("cpt",),
        pack_tokens=65536,
        batch_packs=128,
    )
    # One epoch of 13.5 G tokens at 8.39 M per step; the released SFT starts from about step 1100.
    config.run.update(steps=1610, save_every=1000, validate_every=1000)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    # The conversion loses little, so a third of the base's learning rate is enough.
    config.optim.update(learning_rate=2.5e-4, floor=1e-5, warmup=0.05)
    config.data.train = ("synthetic_cpt", "synthetic_words")
    config.run.update(steps=100, log_every=5, save_every=50, validate_every=50, validate_packs=60)
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
