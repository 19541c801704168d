"""Configs: the base of every experiment, and what experiments share.

A config has the sections mesh, model, data, optim, stage, run and watch; `ivx.config_keys` declares
every key. Experiments change values of `base()` and never add keys, so a misspelt key is an error
wherever it is written.
"""

import json
from collections.abc import Callable, Mapping

import ml_collections

from ivx import config_keys
from ivx.errors import UserError
from ivx.suggestion import did_you_mean


def base(stage: str = "sft") -> ml_collections.ConfigDict:
    """The default config of a stage: sft (also continued pretraining), gspo, opd or convert."""
    config = ml_collections.ConfigDict()
    config.stage = {"name": stage}
    for name, entry in config_keys.of(stage).items():
        section, key = name.split(".")
        if section not in config:
            config[section] = {}
        config[section][key] = entry.default
    return config.lock()


def published(stage: str = "sft") -> ml_collections.ConfigDict:
    """`base()` with what every `8b` experiment shares: the published model and frame rate."""
    config = base(stage)
    config.model.update(preset="8b", dtype="bfloat16", remat="attention")
    config.data.update(tokenizer="qwen3", validation=(), fps=2.0, max_frames=768)
    return config


def tiny(stage: str = "sft") -> ml_collections.ConfigDict:
    """`base()` with what every `tiny` experiment shares: two CPU cores, short packs."""
    config = base(stage)
    # Two devices of one thread keep two cores busier than one device of two.
    config.mesh.update(cpu_devices=2, replica=-1, fsdp=1)
    # A CPU multiplies float32 faster than bfloat16.
    config.model.update(preset="tiny", dtype="float32")
    # Half the published frame rate: the synthetic world moves slowly, and frames cost the time.
    config.data.update(
        tokenizer="compact",
        fps=1.0,
        min_frames=2,
        max_frames=16,
        min_pixels=4 * 32 * 32,
        max_pixels=16 * 64 * 64,
        image_max_pixels=12 * 32 * 32,
        pack_tokens=256,
        pack_patches=144,
        slice_block=48,
        batch_packs=12,
        level=False,  # one host waits for no other
        cache_gib=1.0,
    )
    config.run.seed = 0
    return config


def from_preset(
    experiment: str,
    presets: Mapping[str, Callable[[], ml_collections.ConfigDict]],
    preset: str,
    hint: str = "",
) -> ml_collections.ConfigDict:
    """The config of a preset of an experiment.

    Args:
      experiment: its name, for messages.
      presets: functions by name.
      preset: the name asked for.
      hint: what else to say where there is none of this name.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in presets:
        raise UserError(
            f"{experiment} has no preset {preset!r}; there are {', '.join(presets)}"
            f"{did_you_mean(preset, presets)}{hint}"
        )
    return presets[preset]()


def keys(config: ml_collections.ConfigDict) -> list[str]:
    """All dotted keys."""
    return list(flatten(config))


def flatten(config: ml_collections.ConfigDict | dict) -> dict[str, object]:
    """Dotted key -> value; tuples become lists, as in JSON."""
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    flat = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[key] = as_lists(value)
    return flat


def as_lists(value: object) -> object:
    """Tuples as lists, at every depth."""
    return [as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def snapshot(config: ml_collections.ConfigDict) -> str:
    """The config as JSON text."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"
