"""Conversion of grouped attention with QK-norm to latent attention (M2LA).

    ivx convert --config=experiments/convert.py:tiny --workdir=DIR \\
        --config.run.start=BASE --config.data.mixture=DATA/data.json

One pass of BASE over calibration packs, then linear algebra: the QK-norm is fitted as an affine
map, the positions of all key heads are gathered in one and a constant turn stands for those of the
others, keys and values share a latent (docs/conversion.md). The cache is half as large. Then the
attention of every layer is trained, by itself, to give what that of BASE gives on the same input:
no answer is looked at. Continued pretraining, experiments/cpt.py, wins back what is lost.
`--config.stage.match=False` leaves the training out.

8b    Qwen3-VL-8B-Instruct as `ivx import-hf` reads it, on one host; 16 packs of 65,536 tokens, a
      million. The fit has 4,097 unknowns for each output and wants 200,000 tokens or more, of text
      and of video. Then 400 steps of 8 packs, 210 M tokens, 1.6% of the continued pretraining. How
      the release was converted is not published; all of this is ours.
tiny  the base of experiments/base.py: about two and a half minutes on two CPU cores.
20m   the larger one of experiments/base.py, for one GPU.

Started again with the same command, it goes on where it stopped, or shows the stored result.
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


# What loses least before training, docs/results/conversion.md. All of it is in the released shapes.
_BEST = {"norm": "affine", "rotation": "weighted", "turn": "mean", "weighting": "output"}


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
    config.stage.update(name="convert", calibration_packs=16, **_BEST)
    config.optim.update(learning_rate=1e-4, floor=1e-6, warmup=0.03, weight_decay=0.0)
    config.run.update(steps=400, save_every=100, validate_every=100)
    return config


def _tiny() -> ml_collections.ConfigDict:
    config = configs.tiny()
    # What is converted is healed on the same data.
    config.data.train = ("synthetic_cpt",)
    config.stage.update(name="convert", calibration_packs=384, **_BEST)
    config.optim.update(learning_rate=2e-3, floor=2e-5, warmup=0.05, weight_decay=0.0)
    config.run.update(steps=120, log_every=5, save_every=40, validate_every=40, validate_packs=96)
    return config


def _twenty_million() -> ml_collections.ConfigDict:
    config = _tiny()
    config.model.preset = "20m"
    return config


PRESETS = {"tiny": _tiny, "20m": _twenty_million, "8b": _published}
