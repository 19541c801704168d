"""Checks a config before any work is done: each value by itself, then relations between keys.

All errors are reported at once.
"""

from collections.abc import Callable

import ml_collections

from ivx import config_keys
from ivx.errors import UserError

# Each relation between two keys: left, right, test, what is wrong.
_RELATIONS: tuple[tuple[str, str, Callable, str], ...] = (
    ("data.min_frames", "data.max_frames", lambda a, b: a <= b, "must not exceed"),
    ("data.min_pixels", "data.max_pixels", lambda a, b: a <= b, "must not exceed"),
    ("data.image_min_pixels", "data.image_max_pixels", lambda a, b: a <= b, "must not exceed"),
    ("optim.floor", "optim.learning_rate", lambda a, b: a <= b, "must not exceed"),
    ("optim.accumulation", "data.batch_packs", lambda a, b: b % a == 0, "must divide"),
    (
        "model.cache",
        "model.attention",
        lambda a, b: a == "compute" or b != "gqa",
        "is for latent attention, not",
    ),
    # A run cannot resume from the middle of a rollout.
    ("stage.minibatches", "run.save_every", lambda a, b: b % a == 0, "must divide"),
    ("stage.minibatches", "run.steps", lambda a, b: b % a == 0, "must divide"),
    ("stage.minibatches", "stage.prompts", lambda a, b: b % a == 0, "must divide"),
)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every value before any work is done.

    Raises:
      UserError: lists all errors: key, value, what is allowed.
    """
    errors, bad = [], set()
    keys = config_keys.of(config.stage.name)
    for name, key in keys.items():
        value = _get(config, name)
        if not _passes(key, value):
            bad.add(name)
            errors.append(f"{name} = {value!r}: expected {key.allowed}")
    for left, right, test, wrong in _RELATIONS:
        if not {left, right} <= keys.keys() or bad & {left, right}:
            continue
        a, b = _get(config, left), _get(config, right)
        if not test(a, b):
            errors.append(f"{left} = {a} {wrong} {right} = {b}")
    if config.optim.lora_rank and config.stage.name != "sft":
        errors.append(
            f"optim.lora_rank = {config.optim.lora_rank}: stage {config.stage.name} does not"
            " support LoRA; set it to 0"
        )
    if config.run.follows and not config.run.start:
        errors.append(
            f"run.start = '': this stage continues from the output of {config.run.follows};"
            " give its workdir"
        )
    if errors:
        raise UserError("the config cannot be used: " + "; ".join(errors))


def _passes(key: config_keys.Key, value: object) -> bool:
    """Whether a value is allowed; one of another type is not."""
    try:
        return key.test(value)
    except (TypeError, ValueError, IndexError, AttributeError):
        return False


def _get(config: ml_collections.ConfigDict, key: str) -> object:
    section, name = key.split(".")
    return config[section][name]
