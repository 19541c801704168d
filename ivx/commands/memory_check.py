"""Compares the forecast of a command's memory with what there is, before anything is read.

Linux ends a process that takes too much memory without a word, often after minutes. A command that
would is refused at once instead, with what makes it smaller.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from ivx.errors import UserError

FLAG = "ignore_memory_forecast"
_GIB = 2**30
# Forecasts below this are not printed: they are of small models, whose memory nobody watches.
_PRINTED = _GIB
_LORA = (
    "optim.lora_rank = 16 with optim.lora_targets = ('language_model.layers.self_attn.*.kernel',):"
    " moments and gradients of small matrices only"
)
_MERGER = "optim.trainable = ('visual.merger.*',): moments and gradients of the merger only"


def define() -> None:
    """Defines --ignore_memory_forecast."""
    flags.DEFINE_bool(
        FLAG, False, "Start even if less memory is available than the command is expected to need."
    )


def check(
    forecast: Any,
    ignored: bool,
    knobs: Callable[[Mapping[str, float]], Sequence[str]] = lambda sizes: (),
) -> None:
    """Prints a forecast, or refuses the command.

    Args:
      forecast: an `ivx.from_config.memory_forecast.Forecast`.
      ignored: only print it.
      knobs: from bytes by purpose to changes that make them smaller, the cheapest first.

    Raises:
      UserError: less memory is available than the command needs.
    """
    from ivx.parallel import available_memory
    from ivx.progress import note

    places = (
        ("this host", forecast.host, available_memory.of_host),
        ("each device", forecast.device, available_memory.of_device),
    )
    for place, sizes, measure in places:
        need, memory = sum(sizes.values()), measure() if sizes else None
        if memory is None or need < min(_PRINTED, memory.available):
            continue
        line = f"about {need / _GIB:.1f} GiB of memory on {place}"
        if need <= memory.available:
            note(f"needs {line}, of {memory.available / _GIB:.1f} GiB available")
            continue
        where = " in its control group" if memory.limited else ""
        sentence = (
            f"this needs {line} ({_listed(sizes)}), but {memory.available / _GIB:.1f} of"
            f" {memory.total / _GIB:.1f} GiB are available{where}"
        )
        if ignored:
            note(f"{sentence}; it starts all the same, because of --{FLAG}")
            continue
        changes = [*knobs(sizes), f"more memory, or --{FLAG} to start all the same"]
        raise UserError(f"{sentence}; what helps, the cheapest first: {'; '.join(changes)}")


def training_knobs(
    config: ml_collections.ConfigDict, mesh: Mapping[str, int], sizes: Mapping[str, float]
) -> list[str]:
    """Changes that make a training run, or a conversion, smaller.

    Args:
      config: of the run.
      mesh: sizes of the mesh axes.
      sizes: bytes by purpose; what takes less than a tenth is not worth a change.
    """
    from ivx.commands import out_of_memory

    def matters(*purposes: str) -> bool:
        return sum(sizes.get(name, 0) for name in purposes) > sum(sizes.values()) / 10

    data, optim, changes = config.data, config.optim, []
    if config.stage.name == "convert":
        if config.stage.match and matters("optimizer moments", "gradients and updates"):
            changes.append("stage.match = False: no training of the attention afterwards")
    elif not optim.lora_rank and not optim.trainable:
        changes += [_LORA, _MERGER]
    if optim.ema and matters("moving average"):
        changes.append("optim.ema = 0: keeps no moving average")
    if mesh.get("replica", 1) > 1:
        changes.append(
            "mesh.cpu_devices = 1: one copy of the parameters instead of one per device"
            if config.mesh.cpu_devices > 1
            else "mesh.replica lower and mesh.fsdp higher: shards parameters and moments"
        )
    if matters("activations"):
        # More devices of one CPU, or its own memory in place of itself, save nothing.
        useless = ("mesh.", "model.remat = offload", "a larger slice")
        knobs = out_of_memory.knobs(config, dict(mesh))
        changes += [knob for knob in knobs if not knob.startswith(useless)]
    if matters("batches") and (data.workers or data.prefetch > 1):
        changes.append("data.workers = 0 and data.prefetch = 1: fewer batches at a time")
    if matters("activations", "batches"):
        changes.append(f"data.pack_tokens = {data.pack_tokens // 2}: shorter packs")
    return changes


def dtype_knobs(dtype: str) -> list[str]:
    """Changes that make a command with --dtype smaller."""
    return ["--dtype=bfloat16: half the bytes"] if dtype == "float32" else []


def _listed(sizes: Mapping[str, float]) -> str:
    """The purposes, the largest first; those below a twentieth of all are left out."""
    least = sum(sizes.values()) / 20
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size / _GIB:.1f}" for name, size in ordered if size >= least)
