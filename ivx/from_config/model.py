"""Models from a config: sizes, definition, LoRA, tokenizer."""

import dataclasses

import ml_collections

from ivx import progress
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.text import tokenizer
from ivx.training.lora import LoraDefinition, LoraSpec

Config = ml_collections.ConfigDict


def spec_of(config: Config) -> specs.ModelSpec:
    """Sizes of the model of a config."""
    model = config.model
    spec = specs.PRESETS[model.preset](model.attention, model.dtype)
    text = dataclasses.replace(spec.text, kv_rank=model.kv_rank or spec.text.kv_rank)
    return dataclasses.replace(spec, text=text, remat=model.remat)


def definition(config: Config) -> ModelDefinition:
    """The model without parameters."""
    return ModelDefinition(spec_of(config))


def add_lora(config: Config, definition: ModelDefinition) -> ModelDefinition:
    """The model with LoRA if the config enables it.

    Raises:
      UserError: LoRA matches no kernel, or one that is smaller than its rank.
    """
    optim = config.optim
    if not optim.lora_rank:
        return definition
    spec = LoraSpec(optim.lora_rank, optim.lora_alpha, tuple(optim.lora_targets))
    return LoraDefinition(definition, spec)


def training_definition(config: Config) -> ModelDefinition:
    """The model in training, with LoRA if the config enables it.

    Raises:
      UserError: LoRA matches no kernel, or one that is smaller than its rank.
    """
    return add_lora(config, definition(config))


def load_tokenizer(config: Config) -> tokenizer.Tokenizer:
    """The tokenizer of a config.

    Raises:
      UserError: it does not exist, or it is damaged.
    """
    try:
        with progress.waiting("reading the tokenizer"):
            return tokenizer.load(config.data.tokenizer)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
