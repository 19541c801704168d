"""The teacher of the tiny distillation: larger than the student, trained from new parameters.

    ivx data synthesize --out=DATA --preset=teacher
    ivx train --config=experiments/teacher.py:tiny --workdir=DIR \\
        --config.data.mixture=DATA/data.json

tiny  grouped attention, all families, short and long clips at once: about an hour on two CPU cores.
      Its result is committed as assets/tiny-teacher, in the format of Hugging Face.

There is no `8b`: at that size the teacher is a released model with the same tokenizer.
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
            f"teacher has no preset {preset!r}; there is tiny, and the teacher of 8b is a released"
            " model with the same tokenizer: name its folder as stage.teacher of opd"
        )
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
