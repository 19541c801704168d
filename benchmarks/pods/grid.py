"""The grid of compiled programs: every stage of 8b on every pod, with its mesh.

A stage is the name of its experiment. By default its training step is compiled; of `rl_gspo` and
`opd` the update, of `convert` the statistics pass over calibration batches. A second word selects
another part: `prefill` and `decode` of a rollout, `matching` of a conversion. `convert` runs on one
host and is compiled for one.
"""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections

_TPU7X = "tpu7x:4x4x4"
TOPOLOGIES = ("v5p:4x4x4", "v6e:16x16", "v5e:16x16", _TPU7X)
# One host of each pod, for `convert`: eight chips, or four.
HOSTS = {
    "v5p:4x4x4": "v5p:2x2x1",
    "v6e:16x16": "v6e:2x4",
    "v5e:16x16": "v5e:2x4",
    _TPU7X: "tpu7x:2x2x1",
}
# Google's names of the slices.
NAMES = {
    "v5p:4x4x4": "v5p-128",
    "v6e:16x16": "v6e-256",
    "v5e:16x16": "v5e-256",
    _TPU7X: "tpu7x, 64 chips",
}
# Saving the attention outputs of the vision tower too takes 4 GB and gains 1% of the time.
_SAVE_ALL_ATTENTION = "model.remat=all_attention"
# The setting that `ivx compile --search` ranked first, or the next one that was tried.
_SHORT = {
    "v5p:4x4x4": ("fsdp:64", "optim.accumulation=2"),
    "v6e:16x16": ("fsdp:64,context:4", "optim.accumulation=2", _SAVE_ALL_ATTENTION),
    "v5e:16x16": ("fsdp:32,context:8", "optim.accumulation=4"),
    _TPU7X: ("fsdp:128",),
}
_POLICY = {
    "v5p:4x4x4": ("fsdp:32,context:2",),
    "v6e:16x16": ("fsdp:32,context:8",),
    "v5e:16x16": ("fsdp:32,context:8",),
    _TPU7X: ("fsdp:32,context:4",),
}
# Stage -> topology -> mesh and changed keys of the preset.
CELLS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpt": _SHORT,
    "sft_short": _SHORT,
    "sft_long": {
        "v5p:4x4x4": ("fsdp:8,context:8",),
        "v6e:16x16": ("fsdp:8,context:32",),
        # Saving attention outputs as well would take 98% of the memory.
        "v5e:16x16": ("fsdp:8,context:32", "model.remat=latent"),
        _TPU7X: ("fsdp:8,context:16",),
    },
    "rl_gspo": _POLICY,
    "rl_gspo prefill": _POLICY,
    "rl_gspo decode": _POLICY,
    # Draws an eighth as many answers as `rl_gspo`, up to twice as long.
    "opd": _POLICY,
    "convert": {
        "v5p:4x4x4": ("fsdp:4",),
        "v6e:16x16": ("fsdp:8",),
        # The sums are replicated. Next to them packs of 65,536 tokens do not fit, and packs of
        # 16,384 take 93% of the memory.
        "v5e:16x16": ("fsdp:8", "data.pack_tokens=8192", "data.pack_patches=32768"),
        _TPU7X: ("fsdp:8",),
    },
    "convert matching": {
        "v5p:4x4x4": ("fsdp:4",),
        "v6e:16x16": ("fsdp:8",),
        "v5e:16x16": ("fsdp:8", "data.pack_tokens=8192", "data.pack_patches=32768"),
        _TPU7X: ("fsdp:8",),
    },
}
# These differ only in scalars of the learning-rate schedule, which a test checks and which do not
# enter the digest of a program. One is compiled for both.
SAME = {"sft_short": "cpt"}


def place_of(stage: str, topology: str) -> str:
    """The topology that a stage runs on: the whole slice, or one host of it."""
    return HOSTS[topology] if stage.startswith("convert") else topology


def part_of(stage: str) -> str:
    """The compiled part, of `ivx.from_config.programs.PARTS`; empty for the default part."""
    return stage.partition(" ")[2]


def preset(stage: str, mesh: str, changes: Sequence[str]) -> ml_collections.ConfigDict:
    """The 8b preset of an experiment with a mesh and changed keys.

    Args:
      stage: a key of CELLS.
      mesh: axis sizes, such as "fsdp:8,context:32".
      changes: such as "optim.accumulation=2".
    """
    import ivx
    from ivx.commands import experiments

    folder = pathlib.Path(ivx.__file__).parents[1] / "experiments"
    config = experiments.load(folder / f"{stage.split()[0]}.py", "8b")
    sizes = (axis.split(":") for axis in mesh.split(","))
    config.mesh.update({axis: int(size) for axis, size in sizes})
    for change in changes:
        path, value = change.split("=")
        section, name = path.split(".")
        config[section][name] = int(value) if value.isdigit() else value
    return config


def key(stage: str, topology: str) -> str:
    """Key of a cell in the store; stages with the same program share one."""
    return f"{SAME.get(stage, stage)} {topology}"


def cell(rows: Mapping[str, dict], stage: str, topology: str) -> dict | None:
    """The stored row of a stage on a topology; None if it was never compiled."""
    return rows.get(key(stage, topology))


def config(stage: str, topology: str) -> ml_collections.ConfigDict:
    """The config that is compiled for a cell."""
    mesh, *changes = CELLS[SAME.get(stage, stage)][topology]
    return preset(SAME.get(stage, stage), mesh, changes)
