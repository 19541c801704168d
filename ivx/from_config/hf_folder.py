"""Configs and parameters from folders in the Hugging Face format."""

import dataclasses
import pathlib

import ml_collections

from ivx import config as configs
from ivx.errors import UserError
from ivx.hf import config as hf_config
from ivx.hf import json_file, processor, read
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.text import tokenizer

# Keys of the config's data section with the same names.
_RULES = tuple(field.name for field in dataclasses.fields(processor.FrameRules))


def is_model(folder: pathlib.Path) -> bool:
    """Whether a folder is in the Hugging Face format; a workdir has another kind of config.json.

    Raises:
      UserError: its config.json is damaged.
    """
    path = folder / "config.json"
    return path.is_file() and "model_type" in json_file.read(path)


def config_of(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """A config with the folder's model, tokenizer, frame and size settings; else `ivx.config.base`.

    The compact tokenizer is referred to by name, any other by its path, so the folder must not
    move.

    Raises:
      UserError: the folder does not exist, or ivx has no preset for its model.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; pass one in the Hugging Face format")
    spec = hf_config.read_spec(folder)
    name, attention = hf_config.preset_of(spec), spec.text.attention
    config = configs.base()
    # The dtype of the weights does not determine the dtype of computation.
    preset_spec = specs.PRESETS[name](attention)
    config.model.update(preset=name, attention=attention, dtype=preset_spec.dtype)
    if attention != "gqa" and spec.text.kv_rank != preset_spec.text.kv_rank:
        config.model.kv_rank = spec.text.kv_rank
    try:
        path = tokenizer.find(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no tokenizer.json; add the one of its model") from error
    same = path.read_bytes() == tokenizer.find(tokenizer.COMPACT).read_bytes()
    config.data.tokenizer = tokenizer.COMPACT if same else str(folder.resolve())
    rules = processor.read_frame_rules(folder)
    config.data.update({key: getattr(rules, key) for key in _RULES})
    return config


def read_params(folder: pathlib.Path, definition: ModelDefinition) -> Params:
    """Parameters of a folder, numpy float32.

    Raises:
      UserError: the weights do not match the model, or are damaged.
    """
    return read.read_params(folder, definition, hf_config.read_ranks(folder))


def rules_of(config: ml_collections.ConfigDict) -> processor.FrameRules:
    """The frame and size settings of a config, as a folder stores them."""
    return processor.FrameRules(**{key: config.data[key] for key in _RULES})
