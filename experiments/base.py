"""The tiny stand-in for the released Qwen3-VL: grouped attention, trained from scratch.

    ivx data synthesize --out=DATA --preset=base
    ivx train --config=experiments/base.py:tiny --workdir=DIR --config.data.mixture=DATA/data.json

tiny  captions and short questions, half of them multiple choice: about an hour on two CPU cores.
      Its result is committed as assets/tiny-base, in the format of Hugging Face.

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
    if preset != "tiny":
        raise UserError(
            f"base has no preset {preset!r}; there is tiny, and the base of 8b is"
            " Qwen3-VL-8B-Instruct: bring it in with `ivx import-hf`"
        )
    config = configs.tiny()
    config.model.attention = "gqa"
    config.optim.update(learning_rate=7e-4, floor=2e-5, warmup=0.02)
    config.data.cache_gib = 4.0
    config.run.update(steps=4500, log_every=10, save_every=250, validate_every=250)
    config.run.validate_packs = 96
    return config
