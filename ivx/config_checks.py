"""The check of a config: every value by itself, then relations between two of them.

All that is wrong is reported at once, before any work is done.
"""

import math
from collections.abc import Callable

import ml_collections

from ivx.errors import UserError

STAGES = ("sft", "gspo", "opd", "convert")
# As in ivx.models.spec, which is above this file.
ATTENTIONS = ("m2la", "m2la_exact", "gqa")
MODELS = ("tiny", "small", "20m", "2b", "4b", "8b", "32b")

# As in ivx.parallel.remat.
REMAT = ("none", "dots", "all_attention", "attention", "latent", "layer", "offload")

# Each check: key, test, what is allowed.
_CHECKS: tuple[tuple[str, Callable, str], ...] = (
    ("mesh.cpu_devices", lambda v: v >= 0, "0 or more"),
    ("model.preset", lambda v: v in MODELS, ", ".join(MODELS)),
    ("model.attention", lambda v: v in ATTENTIONS, ", ".join(ATTENTIONS)),
    ("model.kv_rank", lambda v: v >= 0, "0 for that of the preset, or a width of the latent"),
    ("model.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    ("model.remat", lambda v: v in REMAT, ", ".join(REMAT)),
    ("model.cache", lambda v: v in ("compute", "int8", "fp8"), "compute, int8 or fp8"),
    ("data.train", lambda v: v and _names(v), "names of data sets of the mixture"),
    ("data.validation", lambda v: _names(v), "names of data sets of the mixture, or none"),
    ("data.max_bad_samples", lambda v: v >= 0, "0 or more"),
    ("data.fps", lambda v: 0 < v < math.inf, "a positive number of frames a second"),
    ("data.slice_block", lambda v: v >= 4 and v % 4 == 0, "a positive multiple of 4"),
    ("data.min_frames", lambda v: v >= 1, "at least 1"),
    ("data.pack_tokens", lambda v: v >= 16, "at least 16 tokens"),
    ("data.pack_patches", lambda v: v >= 4, "at least 4 patches"),
    ("data.max_pixels", lambda v: v >= 2048, "at least 2048, one slice of two 32x32 frames"),
    ("data.image_min_pixels", lambda v: v >= 1, "at least 1"),
    ("data.image_max_pixels", lambda v: v >= 2048, "at least 2048, two tokens of 32x32"),
    ("data.batch_packs", lambda v: v >= 1, "at least 1"),
    ("data.level", lambda v: isinstance(v, bool), "True or False"),
    ("data.workers", lambda v: v >= 0, "0 or more"),
    ("data.threads", lambda v: v >= 1, "at least 1"),
    ("data.prefetch", lambda v: v >= 1, "at least 1"),
    ("data.cache_gib", lambda v: v >= 0, "0 or more"),
    ("data.limit_frame_pixels", lambda v: v >= 1024, "at least 1024, a frame of 32x32"),
    ("data.limit_frames", lambda v: v >= 1, "at least 1"),
    ("data.limit_hours", lambda v: v > 0, "a positive number of hours"),
    ("data.limit_decode_gib", lambda v: v > 0, "a positive number of GiB"),
    ("data.limit_decode_seconds", lambda v: v > 0, "a positive number of seconds"),
    ("optim.learning_rate", lambda v: v > 0, "a positive rate"),
    ("optim.warmup", lambda v: 0 <= v < 1, "a share of the steps, at least 0 and below 1"),
    ("optim.b1", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ("optim.b2", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ("optim.clip", lambda v: v > 0, "a positive norm"),
    ("optim.accumulation", lambda v: v >= 1, "at least 1"),
    ("optim.train", lambda v: _names(v), "patterns of parameters, or none"),
    ("optim.freeze", lambda v: _names(v), "patterns of parameters, or none"),
    (
        "optim.rates",
        lambda v: all(len(one) == 2 and _names(one[:1]) and one[1] >= 0 for one in v),
        "pairs of a pattern and a factor, as ('visual.*', 0.1)",
    ),
    ("optim.lora_rank", lambda v: v >= 0, "0 or more"),
    ("optim.lora_alpha", lambda v: v > 0, "a positive number"),
    ("optim.lora_targets", lambda v: v and _names(v), "patterns of kernels"),
    ("optim.ema", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ("optim.drop_path", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ("stage.name", lambda v: v in STAGES, ", ".join(STAGES)),
    ("stage.reduction", lambda v: v in ("square", "token", "sample"), "square, token or sample"),
    ("stage.prompts", lambda v: v >= 1, "at least 1"),
    ("stage.group", lambda v: v >= 1, "at least 1"),
    ("stage.minibatches", lambda v: v >= 1, "at least 1"),
    ("stage.temperature", lambda v: 0 < v < math.inf, "a positive temperature"),
    ("stage.max_new_tokens", lambda v: v >= 1, "at least 1"),
    ("stage.clip_low", lambda v: 0 < v < 1, "between 0 and 1"),
    ("stage.clip_high", lambda v: v > 0, "a positive number"),
    ("stage.rehearse", lambda v: _names(v), "names of data sets of the mixture, or none"),
    ("stage.rehearsal", lambda v: 0 < v < math.inf, "a positive number"),
    ("stage.calibration_packs", lambda v: v >= 1, "at least 1"),
    ("stage.ridge", lambda v: v >= 0, "0 or more"),
    ("stage.norm", lambda v: v in ("affine", "fold", "drop"), "affine, fold or drop"),
    (
        "stage.rotation",
        lambda v: v in ("real", "complex", "weighted"),
        "real, complex or weighted",
    ),
    ("stage.turn", lambda v: v in ("none", "mean"), "none or mean"),
    (
        "stage.weighting",
        lambda v: v in ("plain", "balanced", "output"),
        "plain, balanced or output",
    ),
    ("stage.match", lambda v: isinstance(v, bool), "True or False"),
    ("stage.balance", lambda v: v > 0, "a positive number"),
    ("stage.balances", lambda v: all(b > 0 for b in v), "positive numbers, or none"),
    ("stage.sequential", lambda v: isinstance(v, bool), "True or False"),
    ("stage.polish", lambda v: isinstance(v, bool), "True or False"),
    ("stage.mean_rank", lambda v: v >= 0, "0 for the same rank everywhere, or a mean rank"),
    ("run.steps", lambda v: v >= 1, "at least 1"),
    ("run.seed", lambda v: v >= 0, "0 or more"),
    ("run.log_every", lambda v: v >= 1, "at least 1"),
    ("run.validate_every", lambda v: v >= 1, "at least 1"),
    ("run.save_every", lambda v: v >= 1, "at least 1"),
    ("run.keep", lambda v: v >= 1, "at least 1 checkpoint"),
    ("train.rollback_after", lambda v: v >= 0, "0 or more steps"),
    ("train.spike", lambda v: v >= 0, "0 or more"),
    ("train.watchdog", lambda v: v >= 0, "0 or more seconds"),
    ("train.watchdog_ends", lambda v: isinstance(v, bool), "True or False"),
    ("train.remote_every", lambda v: v >= 1, "at least 1"),
    (
        "train.profile",
        lambda v: not v or _is_window(v),
        "steps, the first and the one after the last, as 100:110",
    ),
)

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
    # A run cannot go on from the middle of a rollout.
    ("stage.minibatches", "run.save_every", lambda a, b: b % a == 0, "must divide"),
    ("stage.minibatches", "run.steps", lambda a, b: b % a == 0, "must divide"),
    ("stage.minibatches", "stage.prompts", lambda a, b: b % a == 0, "must divide"),
)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every value before any work is done.

    Raises:
      UserError: lists all that is wrong: key, value, what is allowed.
    """
    errors, bad = [], set()
    for key, test, allowed in _CHECKS:
        value = _get(config, key)
        if not test(value):
            bad.add(key)
            errors.append(f"{key} = {value!r}: expected {allowed}")
    for left, right, test, wrong in _RELATIONS:
        a, b = _get(config, left), _get(config, right)
        if not bad & {left, right} and not test(a, b):
            errors.append(f"{left} = {a} {wrong} {right} = {b}")
    if config.optim.lora_rank and config.stage.name != "sft":
        errors.append(
            f"optim.lora_rank = {config.optim.lora_rank}: stage {config.stage.name} trains without"
            " LoRA so far; set it to 0"
        )
    if config.run.follows and not config.run.start:
        errors.append(
            f"run.start = '': this stage goes on from what {config.run.follows} made;"
            " give its workdir"
        )
    if errors:
        raise UserError("the config cannot be used: " + "; ".join(errors))


def _is_window(text: str) -> bool:
    parts = text.split(":")
    return (
        len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[0]) < int(parts[1])
    )


def _names(value) -> bool:
    return all(isinstance(name, str) for name in value)


def _get(config: ml_collections.ConfigDict, key: str):
    section, name = key.split(".")
    return config[section][name]
