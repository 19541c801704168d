"""Every key of a config: its default, what it means, and which values are allowed.

`ivx configs --explain KEY` prints these lines. The section `stage` has a table for each stage; all
other sections are shared.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ivx.conversion import method, rotation, weighting
from ivx.kernels.latent_decode import quantise
from ivx.models import spec
from ivx.parallel import remat


class Key(NamedTuple):
    """One key.

    Attributes:
      default: its value unless an experiment changes it.
      meaning: one line.
      test: whether a value is allowed.
      allowed: the allowed values, in words.
    """

    default: Any
    meaning: str
    test: Callable[[Any], bool]
    allowed: str


def _choice(default: str, meaning: str, values: tuple[str, ...]) -> Key:
    return Key(default, meaning, lambda v: v in values, ", ".join(values))


def _at_least(default: float, meaning: str, least: float) -> Key:
    return Key(default, meaning, lambda v: v >= least, f"at least {least:,}")


def _positive(default: float, meaning: str) -> Key:
    return Key(default, meaning, lambda v: v > 0, "a positive number")


def _finite(default: float, meaning: str) -> Key:
    return Key(default, meaning, lambda v: 0 < v < math.inf, "a positive finite number")


def _share(default: float, meaning: str) -> Key:
    return Key(default, meaning, lambda v: 0 <= v < 1, "at least 0 and below 1")


def _flag(default: bool, meaning: str) -> Key:
    return Key(default, meaning, lambda v: isinstance(v, bool), "True or False")


def _text(default: str, meaning: str) -> Key:
    return Key(default, meaning, lambda v: isinstance(v, str), "text")


def _names(default: tuple, meaning: str, what: str, required: bool = False) -> Key:
    return Key(
        default,
        meaning,
        lambda v: (bool(v) or not required) and all(isinstance(name, str) for name in v),
        what if required else f"{what}, or none",
    )


def _is_rates(value: Any) -> bool:
    return all(len(pair) == 2 and isinstance(pair[0], str) and pair[1] >= 0 for pair in value)


def _is_window(value: str) -> bool:
    first, colon, last = value.partition(":")
    whole = colon and first.isdigit() and last.isdigit() and int(first) < int(last)
    return not value or bool(whole)


def _axis(default: int, meaning: str) -> Key:
    return Key(
        default, meaning, lambda v: v == -1 or v >= 1, "1 or more, or -1 for all that remain"
    )


SECTIONS: dict[str, dict[str, Key]] = {
    "mesh": {
        "replica": _axis(1, "Devices along `replica`, the axis across slices."),
        "fsdp": _axis(-1, "Devices along `fsdp`, which shards parameters and packs."),
        "tensor": _axis(1, "Devices along `tensor`, which shards heads and vocabulary."),
        "context": _axis(1, "Devices along `context`, which shards the tokens of a pack."),
        "cpu_devices": _at_least(0, "Devices that a CPU host is split into; 0 means one.", 0),
    },
    "model": {
        "preset": _choice("tiny", "Model size, a name in ivx.models.spec.", tuple(spec.PRESETS)),
        "attention": _choice(
            "m2la",
            "Attention: m2la, m2la_exact (keeps the QK-norm) or gqa.",
            spec.ATTENTIONS,
        ),
        "kv_rank": _at_least(0, "Rank of the key-value latent; 0 takes that of the preset.", 0),
        "dtype": _choice(
            "float32", "Dtype of computation; parameters are float32.", ("float32", "bfloat16")
        ),
        "remat": _choice("layer", "Rematerialization policy.", remat.NAMES),
        "cache": _choice(
            "compute",
            "Dtype of latent caches when sampling: that of computation, int8 or fp8.",
            tuple(quantise.DTYPES),
        ),
    },
    "data": {
        "tokenizer": _text("compact", "`compact`, `qwen3`, a tokenizer.json or its folder."),
        "mixture": _text("", "Path of the mixture file."),
        "train": _names(
            ("synthetic_train",), "Data sets to train on.", "data sets of the mixture", True
        ),
        "validation": _names(
            ("synthetic_validation",), "Data sets to validate on.", "data sets of the mixture"
        ),
        "max_bad_samples": _at_least(
            100, "Bad annotations that training skips before it stops.", 0
        ),
        "fps": _finite(2.0, "Frames sampled per second of video."),
        "min_frames": _at_least(4, "Fewest frames of a video.", 1),
        "max_frames": _at_least(768, "Most frames of a video.", 1),
        "min_pixels": _at_least(4 * 4 * 32 * 32, "Fewest pixels of a video, T * H * W.", 0),
        "max_pixels": _at_least(
            32768 * 4 * 32 * 32, "Most pixels of a video, T * H * W; one slice needs 2,048.", 2048
        ),
        "image_min_pixels": _at_least(4 * 32 * 32, "Fewest pixels of an image, H * W.", 1),
        # One slice block; the release allows 16 times as many.
        "image_max_pixels": _at_least(4096 * 32 * 32, "Most pixels of an image, H * W.", 2048),
        "pack_tokens": _at_least(65536, "Tokens of a pack.", 16),
        "pack_patches": _at_least(262144, "Patches of a pack.", 4),
        "slice_block": Key(
            16384,
            "Most patches of a slice; attention in the vision tower is this wide.",
            lambda v: v >= 4 and v % 4 == 0,
            "a positive multiple of 4",
        ),
        "batch_packs": _at_least(128, "Packs of a global batch.", 1),
        "level": _flag(True, "Whether packs of a batch are chosen to cost about the same."),
        "workers": _at_least(0, "Decoding processes per host; 0 decodes in threads.", 0),
        "threads": _at_least(2, "Decoding threads of each process.", 1),
        "prefetch": _at_least(4, "Batches prepared ahead.", 1),
        "cache_gib": _at_least(0.0, "GiB of decoded patches kept in memory.", 0),
        "limit_frame_pixels": _at_least(
            8192 * 8192,
            "Most pixels of a frame or image as stored; larger files are skipped.",
            1024,
        ),
        "limit_frames": _at_least(4_000_000, "Most frames of a video as stored.", 1),
        "limit_hours": _positive(24.0, "Longest video, in hours."),
        "limit_decode_gib": _positive(4096.0, "GiB of pictures decoded to read one sample."),
        "limit_decode_seconds": _positive(600.0, "Processor seconds to read one sample."),
        "limit_held_gib": _positive(
            4.0, "GiB of resized pictures of one sample; larger samples are skipped."
        ),
    },
    "optim": {
        "schedule": _choice(
            "cosine",
            "Learning rate after warm-up: cosine or linear to the floor, or constant.",
            ("cosine", "linear", "constant"),
        ),
        "learning_rate": _positive(1e-5, "Peak learning rate."),
        "floor": _at_least(1e-6, "Learning rate at the end.", 0),
        "warmup": _share(0.1, "Share of the steps that warm up linearly from 0."),
        "b1": _share(0.9, "AdamW's decay of the first moment."),
        "b2": _share(0.95, "AdamW's decay of the second moment."),
        "eps": _at_least(1e-8, "AdamW's epsilon.", 0),
        "weight_decay": _at_least(0.05, "AdamW's weight decay, on every parameter.", 0),
        "clip": _positive(1.0, "Largest global norm of the gradient."),
        "accumulation": _at_least(1, "Micro-batches per step.", 1),
        "trainable": _names(
            (), "Parameters that train, as path patterns (visual.*); none means all.", "patterns"
        ),
        "freeze": _names((), "Parameters that do not train, as path patterns.", "patterns"),
        "rates": Key(
            (),
            "Pairs of a path pattern and a factor of the learning rate.",
            _is_rates,
            "pairs of a pattern and a factor, such as ('visual.*', 0.1)",
        ),
        "lora_rank": _at_least(0, "Rank of LoRA; 0 trains the parameters themselves.", 0),
        "lora_alpha": _positive(32.0, "LoRA's weight, divided by the rank."),
        "lora_targets": _names(
            ("language_model.layers.*.kernel",),
            "Kernels that LoRA adapts, as path patterns.",
            "patterns of kernels",
            True,
        ),
        "ema": _share(0.0, "Decay of a moving average of the parameters; 0 keeps none."),
        "drop_path": _share(
            0.0, "Probability that the last block of the vision tower is dropped in a step."
        ),
    },
    "run": {
        "start": _text("", "Workdir or Hugging Face folder to start from; empty trains anew."),
        "follows": _text("", "The command that makes `start`; empty if the stage needs none."),
        "steps": _at_least(1000, "Steps of the run.", 1),
        "seed": _at_least(42, "Seed of parameters, data order and sampling.", 0),
        "log_every": _at_least(10, "Steps between two rows of metrics.", 1),
        "validate_every": _at_least(200, "Steps between two validations.", 1),
        "validate_packs": _at_least(64, "Packs to validate on.", 0),
        "save_every": _at_least(200, "Steps between two checkpoints.", 1),
        "keep": _at_least(2, "Checkpoints kept on disk.", 1),
    },
    "watch": {
        "rollback_after": _at_least(
            10, "Consecutive non-finite steps before the run rolls back; 0 never does.", 0
        ),
        "spike": _at_least(
            8.0, "Typical deviations by which a loss must jump to be recorded; 0 records none.", 0
        ),
        "watchdog": _at_least(
            1800.0, "Seconds that a step may hang before stacks are dumped; 0 means no limit.", 0
        ),
        "watchdog_ends": _flag(False, "Whether a hung run is then ended, with exit code 70."),
        "remote": _text("", "A second place for checkpoints: a folder or gs://bucket/folder."),
        "remote_every": _at_least(1, "Every n-th checkpoint goes to `remote` too.", 1),
        "profile": Key(
            "",
            "Steps to profile, such as 100:110.",
            _is_window,
            "the first step and the one after the last, such as 100:110",
        ),
    },
}

_REDUCTION = _choice(
    "square",
    "How token losses are averaged: token, sample, or square (1 / sqrt(tokens of the sample)).",
    ("square", "token", "sample"),
)
_REHEARSAL = {
    "rehearse": _names(
        (), "Data sets of supervised fine-tuning to rehearse.", "data sets of the mixture"
    ),
    "rehearsal": _finite(0.1, "Weight of the rehearsal loss."),
}
_ROLLOUT = {
    "prompts": _at_least(16, "Questions per rollout.", 1),
    "group": _at_least(8, "Answers sampled per question.", 1),
    "minibatches": _at_least(1, "Optimizer steps per rollout.", 1),
    "temperature": _finite(1.0, "Sampling temperature."),
    "max_new_tokens": _at_least(1024, "Longest answer, in tokens.", 1),
}
STAGES: dict[str, dict[str, Key]] = {
    "sft": {"reduction": _REDUCTION},
    "gspo": {
        "reduction": _REDUCTION,
        **_ROLLOUT,
        "clip_low": Key(
            3e-4, "Clip range of the sequence ratio, below 1.", lambda v: 0 < v < 1, "within (0, 1)"
        ),
        "clip_high": _positive(4e-4, "Clip range of the sequence ratio, above 1."),
        **_REHEARSAL,
    },
    "opd": {
        "reduction": _REDUCTION,
        **_ROLLOUT,
        "teacher": _text("", "Workdir or Hugging Face folder of the teacher."),
        **_REHEARSAL,
    },
    "convert": {
        "reduction": _REDUCTION,
        "calibration_packs": _at_least(256, "Packs of the statistics pass.", 1),
        "norm": _choice("affine", "What replaces the QK-norm: affine, fold or drop.", method.NORMS),
        "ridge": _at_least(1e-3, "Ridge of the affine fit, as a share of the mean diagonal.", 0),
        "rotation": _choice(
            "complex",
            "Rotation that gathers the positions of key heads: real, complex or weighted.",
            rotation.KINDS,
        ),
        "mean_rotation": _flag(
            False, "Whether a constant mean rotation replaces the rope of the other key heads."
        ),
        "weighting": _choice("balanced", "What the compression is weighted by.", weighting.KINDS),
        "balance": _positive(1.0, "Factor that keys are divided by before compression."),
        "balances": Key(
            (),
            "Balances to try; the one with the lowest loss is taken.",
            lambda v: all(b > 0 for b in v),
            "positive numbers, or none",
        ),
        "sequential": _flag(False, "Whether each layer is fitted to the converted layers below."),
        "fit_output": _flag(False, "Whether the output projection is refitted."),
        "mean_rank": _at_least(0, "Mean rank allotted over the layers; 0 gives all the same.", 0),
        "match": _flag(True, "Whether attention is then trained to match the source."),
        **_REHEARSAL,
    },
}


def of(stage: str) -> dict[str, Key]:
    """All keys of a config with this stage, by dotted name, but for `stage.name`."""
    tables = SECTIONS | {"stage": STAGES[stage]}
    return {
        f"{name}.{key}": entry for name, table in tables.items() for key, entry in table.items()
    }


def everything() -> dict[str, Key]:
    """Keys of all stages together, by dotted name."""
    keys = {"stage.name": _choice("sft", "The stage.", tuple(STAGES))}
    for stage in STAGES:
        keys |= of(stage)
    return keys
