"""Cells of the table of pods: every stage of 8b on every pod, with its mesh.

A stage is the name of its experiment. What is compiled of it is its training step, the update of
`rl_gspo` and `opd`, the pass of `convert` over calibration batches. With the name of a part behind
it that part is compiled: how questions are read and answers drawn, and how a conversion matches
attention. `convert` runs on one host, and is compiled for one.
"""

import pathlib

_WHOLE = "tpu7x:4x4x4"
TOPOLOGIES = ("v5p:4x4x4", "v6e:16x16", "v5e:16x16", _WHOLE)
# Of the statistics pass, one host: eight chips, or four.
HOSTS = {
    "v5p:4x4x4": "v5p:2x2x1",
    "v6e:16x16": "v6e:2x4",
    "v5e:16x16": "v5e:2x4",
    _WHOLE: "tpu7x:2x2x1",
}
# As Google names the slices.
NAMES = {
    "v5p:4x4x4": "v5p-128",
    "v6e:16x16": "v6e-256",
    "v5e:16x16": "v5e-256",
    _WHOLE: "tpu7x, 64 chips",
}
# What attention of the vision tower gave fits beside the rest: 4 GB, for 1% of the time.
_SEEN = "model.remat=all_attention"
# Stage: topologies with the mesh to compile and what else is changed of the preset. What stands
# here is what `--search` found best, or the next that was tried.
_SHORT = {
    "v5p:4x4x4": ("fsdp:64", "optim.accumulation=2"),
    "v6e:16x16": ("fsdp:64,context:4", "optim.accumulation=2", _SEEN),
    "v5e:16x16": ("fsdp:32,context:8", "optim.accumulation=4"),
    _WHOLE: ("fsdp:128",),
}
_POLICY = {
    "v5p:4x4x4": ("fsdp:32,context:2",),
    "v6e:16x16": ("fsdp:32,context:8",),
    "v5e:16x16": ("fsdp:32,context:8",),
    _WHOLE: ("fsdp:32,context:4",),
}
CELLS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpt": _SHORT,
    "sft_short": _SHORT,
    "sft_long": {
        "v5p:4x4x4": ("fsdp:8,context:8",),
        "v6e:16x16": ("fsdp:8,context:32",),
        # With what attention gave kept, 98% of the memory.
        "v5e:16x16": ("fsdp:8,context:32", "model.remat=latent"),
        _WHOLE: ("fsdp:8,context:16",),
    },
    "rl_gspo": _POLICY,
    "rl_gspo prefill": _POLICY,
    "rl_gspo decode": _POLICY,
    # It draws an eighth as many answers as `rl_gspo`, up to twice as long.
    "opd": _POLICY,
    "convert": {
        "v5p:4x4x4": ("fsdp:4",),
        "v6e:16x16": ("fsdp:8",),
        # The sums are whole on every chip: packs of 65,536 tokens are refused beside them, and with
        # 16,384 it is 93% of the memory.
        "v5e:16x16": ("fsdp:8", "data.pack_tokens=8192", "data.pack_patches=32768"),
        _WHOLE: ("fsdp:8",),
    },
    "convert matching": {
        "v5p:4x4x4": ("fsdp:4",),
        "v6e:16x16": ("fsdp:8",),
        "v5e:16x16": ("fsdp:8", "data.pack_tokens=8192", "data.pack_patches=32768"),
        _WHOLE: ("fsdp:8",),
    },
}
# Their steps differ in numbers of the optimizer's schedule alone (a test holds them to that), which
# no compiler minds: one is compiled for both.
SAME = {"sft_short": "cpt"}


def place_of(stage: str, topology: str) -> str:
    """Where a stage of a pod runs: on all of it, or on one host of it."""
    return HOSTS[topology] if stage.startswith("convert") else topology


def part_of(stage: str) -> str:
    """The part that is compiled of it, a name of `ivx.build.dataless.PARTS`; "" for the usual."""
    return stage.partition(" ")[2]


def preset(stage: str, mesh: str, changes: list[str]):
    """The 8b preset of an experiment with a mesh and some keys changed."""
    import ivx
    from ivx.commands import config_flag

    folder = pathlib.Path(ivx.__file__).parents[1] / "experiments"
    config = config_flag.load(folder / f"{stage.split()[0]}.py", "8b")
    config.mesh.update({axis: int(n) for axis, n in (one.split(":") for one in mesh.split(","))})
    for change in changes:
        key, value = change.split("=")
        section, name = key.split(".")
        config[section][name] = int(value) if value.isdigit() else value
    return config


def key(stage: str, topology: str) -> str:
    """By what a cell is known: stages whose programs are the same share one."""
    return f"{SAME.get(stage, stage)} {topology}"


def cell(known: dict, stage: str, topology: str) -> dict | None:
    """What is known of a stage on a topology."""
    return known.get(key(stage, topology))


def config(stage: str, topology: str):
    """What is compiled of a stage for a topology."""
    mesh, *changes = CELLS[SAME.get(stage, stage)][topology]
    return preset(SAME.get(stage, stage), mesh, changes)
