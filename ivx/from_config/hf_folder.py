"""Configs and parameters from folders in the Hugging Face format."""

import dataclasses
import filecmp
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from ivx import config as configs
from ivx import local_files
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
        raise UserError(
            f"{folder} is not a folder; pass one in the Hugging Face format"
            f"{local_files.download_hint(str(folder))}"
        )
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
    same = filecmp.cmp(path, tokenizer.find(tokenizer.COMPACT), shallow=False)
    config.data.tokenizer = tokenizer.COMPACT if same else str(folder.resolve())
    rules = processor.read_frame_rules(folder)
    config.data.update({key: getattr(rules, key) for key in _RULES})
    return config


def read_params(
    folder: pathlib.Path,
    definition: ModelDefinition,
    abstract: Params | None = None,
    place: Callable[[np.ndarray, Any], Any] = lambda array, leaf: array,
    allow_nonfinite: bool = False,
) -> Params:
    """Parameters of a folder, as `ivx.hf.read.read_params`; by default numpy float32.

    Raises:
      UserError: the weights do not match the model, are damaged, or are not finite.
    """
    latent_ranks = hf_config.read_ranks(folder)
    return read.read_params(folder, definition, latent_ranks, abstract, place, allow_nonfinite)


def rules_of(config: ml_collections.ConfigDict) -> processor.FrameRules:
    """The frame and size settings of a config, as a folder stores them."""
    return processor.FrameRules(**{key: config.data[key] for key in _RULES})
