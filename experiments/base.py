"""Trains the base models of the small presets, stand-ins for Qwen3-VL with grouped attention.

    ivx data synthesize --out=DATA --preset=base
    ivx train --config=base:tiny --workdir=DIR --config.data.mixture=DATA/data.json

tiny  captions and short questions, half of them multiple choice: 1.4 hours on two CPU cores. The
      result is committed as assets/tiny-base, in the Hugging Face format.
20m   the same data for about 20 M parameters, a second source for conversions: for one GPU and
      sixteen CPU cores that decode its videos.

There is no `8b`: at that size the base is Qwen3-VL-8B-Instruct, which `ivx import-hf` reads.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from ivx import config as configs

_AT_8B = "; the base of 8b is Qwen3-VL-8B-Instruct: import it with `ivx import-hf`"


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    return configs.from_preset("base", PRESETS, preset, _AT_8B)


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
    # Decoding in the threads of one process would take longer than a step.
    config.data.update(batch_packs=16, workers=14, threads=1)
    config.run.update(steps=4000, log_every=50, save_every=1000, validate_every=500)
    return config


PRESETS = {"tiny": _tiny, "20m": _twenty_million}
