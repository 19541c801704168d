"""Conversion of grouped attention with QK-norm to latent attention (M2LA), without training.

    ivx convert --config=experiments/convert.py:tiny --workdir=DIR \\
        --config.run.start=BASE --config.data.mixture=DATA/data.json

One pass of BASE over calibration packs, then linear algebra: the QK-norm is fitted as an affine
map, the positions of all key heads are gathered in one, keys and values share a latent. The cache
is half as large. Continued pretraining, experiments/cpt.py, wins back what is lost.

8b    Qwen3-VL-8B-Instruct as `ivx import-hf` reads it, on one host; 16 packs of 65,536 tokens, a
      million. The fit has 4,097 unknowns for each output and wants 200,000 tokens or more, of text
      and of video. The calibration of the release is not published; this is ours.
tiny  the base of experiments/base.py: about a minute on two CPU cores.

Started again with the same command, it shows the stored result.
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
        raise UserError(f"convert has no preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]()


def _published() -> ml_collections.ConfigDict:
    config = configs.base()
    config.model.update(preset="8b", dtype="bfloat16")
    config.data.update(
        tokenizer="qwen3",
        train=("cpt",),
        validation=(),
        fps=2.0,
        max_frames=768,
        pack_tokens=65536,
        batch_packs=8,
    )
    # Complex: never gathers less in the roped head than TransMLA's rotation, in the same shapes.
    config.stage.update(name="convert", calibration_packs=16, rotation="complex")
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    # What is converted is healed on the same data.
    config.data.train = ("synthetic_cpt",)
    config.stage.update(name="convert", calibration_packs=384, rotation="complex")
    config.run.validate_packs = 96
    return config


PRESETS = {"tiny": _tiny, "8b": _published}
