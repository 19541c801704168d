"""The small stand-ins for the released Qwen3-VL: grouped attention, trained from scratch.

    ivx data synthesize --out=DATA --preset=base
    ivx train --config=experiments/base.py:tiny --workdir=DIR --config.data.mixture=DATA/data.json

tiny  captions and short questions, half of them multiple choice: 1.4 hours on two CPU cores.
      Its result is committed as assets/tiny-base, in the format of Hugging Face.
20m   the same data for about 20 M parameters, a second source of conversions: for one GPU and the
      sixteen cores that decode for it.

There is no `8b`: at that size the base is Qwen3-VL-8B-Instruct itself, which `ivx import-hf` reads.
"""

import ml_collections

from ivx import config as configs
from ivx.errors import UserError


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(
            f"base has no preset {preset!r}; there are {', '.join(PRESETS)}, and the base of 8b is"
            " Qwen3-VL-8B-Instruct: bring it in with `ivx import-hf`"
        )
    return PRESETS[preset]()


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.model.attention = "gqa"
    config.optim.update(learning_rate=7e-4, floor=2e-5, warmup=0.02)
    config.data.cache_gib = 4.0
    config.run.update(steps=4500, log_every=10, save_every=250, validate_every=250)
    config.run.validate_packs = 96
    return config


def _twenty_million() -> ml_collections.ConfigDict:
    config = _tiny()
    config.model.preset = "20m"
    config.optim.learning_rate = 5e-4
    # A step is shorter than decoding its clips in threads of one process would be.
    config.data.update(batch_packs=16, workers=14, threads=1)
    config.run.update(steps=4000, log_every=50, save_every=1000, validate_every=500)
    return config


PRESETS = {"tiny": _tiny, "20m": _twenty_million}
