"""Converts grouped attention with QK-norm to multi-head latent attention (M2LA).

    ivx convert --config=convert:tiny --workdir=DIR --config.run.start=BASE \\
        --config.data.mixture=DATA/data.json

BASE runs once over calibration packs, and linear algebra does the rest: the QK-norm is fitted by an
affine map, the rotary positions of all key heads move into one head, a constant rotation replaces
those of the other heads, and keys and values share a latent (docs/conversion.md). The cache is half
as large. Then the attention of every layer is trained, independently, to reproduce that of BASE on
the same input; no labels are used. Continued pretraining (cpt) recovers the remaining loss.
`--config.stage.match=False` skips the training.

8b    Qwen3-VL-8B-Instruct from `ivx import-hf`, on one host. The calibration uses 16 packs of
      65,536 tokens, a million. The fit has 4,097 unknowns per output and needs at least 200,000
      tokens of text and video. Training takes 400 steps of 8 packs: 210 M tokens, 1.6% of the
      continued pretraining. The release does not say how it was converted; all of this is ours.
tiny  the tiny base: about two and a half minutes on two CPU cores.
20m   the 20m base, for one GPU.

Rerun the same command to resume, or to print the stored result.
"""

import ml_collections

from ivx import config as configs


def get_config(preset: str = "8b") -> ml_collections.ConfigDict:
    """The config of a preset.

    Raises:
      UserError: there is no such preset.
    """
    return configs.from_preset("convert", PRESETS, preset)


# The method with the lowest loss before training, docs/results/conversion.md. It keeps the
# released shapes.
_BEST = {"norm": "affine", "rotation": "weighted", "mean_rotation": True, "weighting": "output"}


def _published() -> ml_collections.ConfigDict:
    config = configs.published("convert")
    # The statistics pass has no backward pass, so there is nothing to save for one.
    config.model.remat = "layer"
    config.data.update(
        train=("cpt",),
        pack_tokens=65536,
        batch_packs=8,
    )
    config.stage.update(calibration_packs=16, **_BEST)
    config.optim.update(learning_rate=1e-4, floor=1e-6, warmup=0.03, weight_decay=0.0)
    config.run.update(steps=400, save_every=100, validate_every=100)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny("convert")
    # The same data as cpt, which follows.
    config.data.train = ("synthetic_cpt",)
    config.stage.update(calibration_packs=384, **_BEST)
    config.optim.update(learning_rate=2e-3, floor=2e-5, warmup=0.05, weight_decay=0.0)
    config.run.update(steps=120, log_every=5, save_every=40, validate_every=40, validate_packs=96)
    return config


def _twenty_million() -> ml_collections.ConfigDict:
    config = _tiny()
    config.model.preset = "20m"
    return config


PRESETS = {"tiny": _tiny, "20m": _twenty_million, "8b": _published}
