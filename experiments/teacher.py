"""Trains the teacher of the tiny distillation: larger than the student, from new parameters.

    ivx data synthesize --out=DATA --preset=teacher
    ivx train --config=teacher:tiny --workdir=DIR --config.data.mixture=DATA/data.json

tiny  grouped attention, all question families, short and long clips together: about an hour on two
      CPU cores. The result is committed as assets/tiny-teacher, in the Hugging Face format.

There is no `8b`: at that size the teacher is a released model with the same tokenizer.

Rerun the same command to resume a run from its last checkpoint.
"""

import ml_collections

from ivx import config as configs

_AT_8B = (
    "; the teacher of 8b is a released model with the same tokenizer: set stage.teacher of opd to"
    " its folder"
)


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    return configs.from_preset("teacher", PRESETS, preset, _AT_8B)


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    config.model.update(preset="small", attention="gqa")
    config.optim.update(learning_rate=6e-4, floor=2e-5, warmup=0.03)
    config.data.update(
        train=("synthetic_short", "synthetic_long"),
        max_frames=32,
        max_pixels=32 * 64 * 64,
        pack_tokens=1024,
        pack_patches=864,
        batch_packs=4,
        cache_gib=4.0,
    )
    config.run.update(steps=1500, log_every=10, save_every=100, validate_every=100)
    config.run.validate_packs = 40
    return config


PRESETS = {"tiny": _tiny}
