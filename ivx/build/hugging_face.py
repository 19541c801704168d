"""From a folder in the format of Hugging Face to a config that uses its model as it asks for."""

import dataclasses
import pathlib

import ml_collections

from ivx import config as configs
from ivx.errors import UserError
from ivx.hf import config as hf_config
from ivx.hf import json_file, preset, processor, read
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.text import tokenizer

# Their names and ours are the same.
_RULES = tuple(field.name for field in dataclasses.fields(processor.FrameRules))


def is_model(folder: pathlib.Path) -> bool:
    """Whether a folder is in the format of Hugging Face; a workdir has a config.json too.

    Raises:
      UserError: its config.json is damaged.
    """
    path = folder / "config.json"
    return path.is_file() and "model_type" in json_file.read(path)


def config_of(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """Model, tokenizer, frames and sizes of the folder; all else as in `ivx.config.base`.

    A tokenizer that is the compact one is called so; any other is that of the folder, which has
    to stay where it is.

    Raises:
      UserError: the folder is not there, or holds no model that ivx has a preset for.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one in the format of Hugging Face")
    spec = hf_config.read_spec(folder)
    name, attention = preset.preset_of(spec), spec.text.attention
    config = configs.base()
    # The dtype of the weights says nothing about the device that is to compute with them.
    usual = specs.PRESETS[name](attention)
    config.model.update(preset=name, attention=attention, dtype=usual.dtype)
    if attention != "gqa" and spec.text.kv_rank != usual.text.kv_rank:
        config.model.kv_rank = spec.text.kv_rank
    try:
        words = tokenizer.find(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no tokenizer.json; add the one of its model") from error
    same = words.read_bytes() == tokenizer.find(tokenizer.COMPACT).read_bytes()
    config.data.tokenizer = tokenizer.COMPACT if same else str(folder.resolve())
    rules = processor.read_frame_rules(folder)
    config.data.update({key: getattr(rules, key) for key in _RULES})
    return config


def read_params(folder: pathlib.Path, definition: ModelDefinition) -> Params:
    """Parameters of a folder, numpy float32.

    Raises:
      UserError: its weights are not those of the model, or damaged.
    """
    return read.read_params(folder, definition, hf_config.read_ranks(folder))


def rules_of(config: ml_collections.ConfigDict) -> processor.FrameRules:
    """Frames and sizes of a config, as a folder says them."""
    return processor.FrameRules(**{key: config.data[key] for key in _RULES})
