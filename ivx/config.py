"""Configs: the base of every experiment, the snapshot, the workdir that belongs to one.

A config has the sections mesh, model, data, optim, stage, run and train. Experiments change values
of `base()` and never add keys, so that a misspelt key is an error wherever it is written.
"""

import difflib
import json
import pathlib
import uuid

import ml_collections

from ivx.config_checks import validate
from ivx.errors import UserError


def base() -> ml_collections.ConfigDict:
    """The config of a fine-tuning run, with every key there is."""
    config = ml_collections.ConfigDict()
    # Devices along each axis of the mesh; -1: all that are left.
    config.mesh = {"replica": 1, "fsdp": -1, "tensor": 1, "context": 1}
    config.mesh.cpu_devices = 0  # devices to split a CPU host into; 0: one
    config.model = {
        "preset": "tiny",  # of ivx.models.spec
        "attention": "m2la",  # or m2la_exact, which keeps the QK-norm, or gqa
        "kv_rank": 0,  # of the latent; 0: that of the preset
        "dtype": "float32",  # of computation; parameters are float32
        "remat": "layer",  # of ivx.parallel.remat
        # What a latent cache is stored in when sampling: the dtype of computation, int8 or fp8.
        "cache": "compute",
    }
    config.data = {
        "tokenizer": "compact",  # or qwen3, a tokenizer.json or its folder
        "mixture": "",  # path of a mixture file
        "train": ("synthetic_train",),
        "validation": ("synthetic_validation",),
        "max_bad_samples": 100,  # unusable annotations that training leaves out before it gives up
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 768,
        "min_pixels": 4 * 4 * 32 * 32,  # of a whole video, T * H * W
        "max_pixels": 32768 * 4 * 32 * 32,
        "image_min_pixels": 4 * 32 * 32,  # of an image, H * W
        "image_max_pixels": 4096 * 32 * 32,  # a slice block; the release allows 16 times as many
        "pack_tokens": 65536,
        "pack_patches": 262144,
        "slice_block": 16384,  # patches a slice may have; attention in the tower is this wide
        "batch_packs": 128,  # packs in a global batch
        "level": True,  # whether those of a batch are such that cost alike; else any
        "workers": 0,  # decoding processes a host; 0: threads
        "threads": 2,
        "prefetch": 4,  # batches made ahead
        "cache_gib": 0.0,  # decoded patches kept in memory
        # Files beyond these are skipped, see data_pipelines.video.limits.
        "limit_frame_pixels": 8192 * 8192,  # of a frame or an image, as it is stored
        "limit_frames": 4_000_000,  # of a video
        "limit_hours": 24.0,  # of a video
        "limit_decode_gib": 4096.0,  # of pictures decoded to read a sample
        "limit_decode_seconds": 600.0,  # of processor time to read a sample
    }
    config.optim = {
        "learning_rate": 1e-5,
        "floor": 1e-6,  # the rate at the end
        "warmup": 0.1,  # share of the steps
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.05,
        "clip": 1.0,
        "accumulation": 1,  # micro-batches a step
        # Patterns of parameters by their paths, as "visual.*"; see ivx.training.parts.
        "train": (),  # what trains; none: all
        "freeze": (),  # what does not
        "rates": (),  # pairs of a pattern and a factor of the learning rate
        "lora_rank": 0,  # of what is added to the kernels of lora_targets, which then alone trains
        "lora_alpha": 32.0,  # over the rank, its weight
        "lora_targets": ("language_model.layers.*.kernel",),
        "ema": 0.0,  # decay of a running mean of the parameters, which is then what is read back
        "drop_path": 0.0,  # chance that the last block of the vision tower is left out of a step
    }
    config.stage = {
        "name": "sft",  # sft (also continued pretraining), gspo, opd or convert
        "reduction": "square",
        # gspo and opd: how answers are rolled out
        "prompts": 16,  # questions a rollout
        "group": 8,  # answers to each
        "minibatches": 1,  # optimizer steps a rollout
        "temperature": 1.0,
        "max_new_tokens": 1024,
        # gspo: the range of the sequence-level ratio
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        # data sets whose fine-tuning goes on beside the stage, and the weight of its mean loss
        "rehearse": (),
        "rehearsal": 0.1,
        # opd: the workdir or Hugging Face folder of the teacher
        "teacher": "",
        # convert: packs of the statistics pass; what stands for the QK-norm (affine, fold or drop)
        # and the ridge of its fit as a share of the mean diagonal; rotation of the key heads (real,
        # complex or weighted); what stands for the rope of the others (none, or their mean turn);
        # what the compression weighs by (plain, balanced or output) and what keys are divided by
        # on top; whether attention is then matched to what it said before, for run.steps steps
        "calibration_packs": 256,
        "norm": "affine",
        "ridge": 1e-3,
        "rotation": "complex",
        "turn": "none",
        "weighting": "balanced",
        "balance": 1.0,
        "balances": (),  # of which the one with the least loss on more packs is taken
        "sequential": False,  # whether each layer is fitted to the converted ones below it
        "polish": False,  # whether the output projection is fitted to the source's attention
        "mean_rank": 0,  # of the latents, allotted to the layers; 0: all have model.kv_rank
        "match": True,
    }
    config.run = {
        "start": "",  # workdir or Hugging Face folder whose parameters come first; "": new ones
        "follows": "",  # what makes the start of this stage; "": it may begin with new parameters
        "steps": 1000,
        "seed": 42,
        "log_every": 10,
        "validate_every": 200,
        "validate_packs": 64,
        "save_every": 200,
        "keep": 2,
    }
    # What watches over a run, and is no part of what it computes.
    config.train = {
        "rollback_after": 10,  # steps in a row without a finite gradient; 0: never goes back
        "spike": 8.0,  # typical deviations by which a loss jumps that is recorded; 0: none is
        "watchdog": 1800.0,  # seconds that a step may hang until stacks are dumped; 0: for ever
        "watchdog_ends": False,  # whether the run is then ended, with code 70
        "remote": "",  # folder or gs://bucket/folder, this run's own, for checkpoints besides
        "remote_every": 1,  # of so many saves one goes there too
        "profile": "",  # steps to profile, as "100:110"
    }
    return config.lock()


def tiny() -> ml_collections.ConfigDict:
    """`base()` with what every `tiny` experiment shares: two CPU cores, short packs."""
    config = base()
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


def keys(config: ml_collections.ConfigDict) -> list[str]:
    """All dotted keys."""
    return list(flatten(config))


def flatten(config) -> dict[str, object]:
    """Dotted key -> value; tuples as lists, as JSON has them."""
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    flat = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def nearest(key: str, known: list[str]) -> str:
    """A hint for a misspelt key."""
    close = difflib.get_close_matches(key, known, 1, 0.5) or difflib.get_close_matches(
        key.split(".")[-1], [name for name in known], 1, 0.3
    )
    return f"; did you mean {close[0]}?" if close else f"; known keys are {', '.join(known)}"


def snapshot(config: ml_collections.ConfigDict) -> str:
    """The config as JSON text."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


# How a run is spread, fed and watched, and not what it computes: it may go on with other values.
_FREE = (
    *("mesh.", "train.", "model.remat"),
    *("data.workers", "data.threads", "data.prefetch", "data.cache_gib"),
    *("run.log_every", "run.validate_every", "run.save_every", "run.keep"),
)


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Makes sure that `workdir` is free or holds a run that can go on so; changes nothing.

    Returns:
      What differs from the config that is there, and may.

    Raises:
      UserError: the folder holds a run of another config; the keys that differ are listed.
    """
    path = workdir / "config.json"
    if not path.exists():
        return []
    new = flatten(config)
    # A key that came with a later version has its default in runs of an earlier one. A recipe has
    # keys of its own.
    usual = {key: value for key, value in flatten(base()).items() if key in new}
    old = usual | flatten(_read(path))
    differing = {
        key: f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    free = (*_FREE, *_exact_in_parts(new))
    fixed = [said for key, said in differing.items() if not key.startswith(free)]
    if fixed:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(fixed)};"
            " give another --workdir, or the old values"
        )
    return list(differing.values())


def _exact_in_parts(flat: dict[str, object]) -> tuple[str, ...]:
    """Micro-batches change nothing where the loss is one quotient over all of a batch."""
    several = flat.get("stage.name") == "convert" or flat.get("stage.rehearse")
    return () if several else ("optim.accumulation",)


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Makes `workdir` that of this config by writing config.json, whole or not at all.

    Returns and raises what `check_workdir` does.
    """
    changed = check_workdir(workdir, config)
    path = workdir / "config.json"
    if changed or not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        # Every host of a run does this.
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        partial.write_text(snapshot(config))
        partial.replace(path)
    return changed


def load_workdir(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config that a workdir was made with.

    Raises:
      UserError: there is none.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} is not a workdir: it has no config.json;"
            " `ivx train`, `ivx convert` and `ivx import-hf` make one"
        )
    config = base()
    try:
        config.update(_read(path))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit this version of ivx: {error}") from error
    validate(config)
    return config


def _read(path: pathlib.Path) -> dict:
    """A snapshot.

    Raises:
      UserError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; take another workdir") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no config; take another workdir")
    return found
