"""The flags --config and --workdir, which several commands share."""

import pathlib
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ivx import bundled, config_checks, config_keys, local_files
from ivx import workdir as workdirs
from ivx.commands import experiments
from ivx.errors import UserError

_PATHS = (("data", "mixture"), ("run", "start"), ("stage", "teacher"))


def define() -> None:
    """Defines --config, --config.section.key=value and --workdir."""
    define_config()
    flags.DEFINE_string("workdir", "", "Folder of the run.")


def define_config() -> None:
    """Defines --config=NAME[:preset] and --config.section.key=value."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment and preset, such as sft_short:tiny or mine.py:tiny; `ivx configs` lists them."
        " --config.section.key=value changes a value.",
    )


def define_accept_data_change() -> None:
    """Defines --accept_data_change."""
    flags.DEFINE_bool(
        "accept_data_change",
        False,
        "Resume although the data have changed since the checkpoint; the change is recorded.",
    )


# Keys that most runs change.
_USUAL = (
    *("data.mixture", "data.train", "run.start", "run.steps", "optim.learning_rate"),
    *("data.batch_packs", "optim.accumulation", "optim.lora_rank", "run.save_every", "mesh.fsdp"),
)


def details() -> str:
    """Presets and the keys that most runs change, for a help page."""
    lines = ["Experiments, as --config=NAME:PRESET:"]
    for name in experiments.names():
        module = experiments.module_of(experiments.path_of(name))
        if name != "recipe":
            lines.append(f"  {name:11s} {', '.join(experiments.presets(module))}")
    lines += ["", "Keys that most runs change, as --config.KEY=VALUE; `ivx configs` shows all:"]
    known = config_keys.everything()
    lines += [f"  {key:20s} {known[key].meaning}" for key in _USUAL]
    return "\n".join(lines)


def read(args: Any) -> ml_collections.ConfigDict:
    """The checked config of a run.

    Raises:
      UserError: --config is missing or cannot be used.
    """
    return check(_given(args))


def read_without_data(args: Any) -> ml_collections.ConfigDict:
    """The checked config of a command that reads neither data nor a start.

    Raises:
      UserError: as `read`.
    """
    config = _given(args)
    check_without_start(config)
    return config


def _given(args: Any) -> ml_collections.ConfigDict:
    if args.config is None:
        raise UserError(
            "no --config was given; name an experiment, as in --config=sft_short:tiny"
            " (`ivx configs` lists them)"
        )
    return args.config


def check(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with absolute paths, so that its run can be used from another folder.

    Raises:
      UserError: a value is not allowed.
    """
    for section, key in _PATHS:
        if key != "mixture" and (hint := local_files.download_hint(config[section].get(key, ""))):
            raise UserError(f"{section}.{key} = {config[section][key]} is not a folder{hint}")
        if config[section].get(key):
            config[section][key] = str(bundled.find(config[section][key]).resolve())
    config_checks.validate(config)
    if not config.data.mixture:
        raise UserError(
            "no --config.data.mixture was given; name a mixture file,"
            " as `ivx data synthesize` makes it"
        )
    return config


def check_without_start(config: ml_collections.ConfigDict) -> None:
    """Checks a config from which nothing is trained, so that run.start may be missing.

    Raises:
      UserError: a value is not allowed.
    """
    config.run.follows = ""
    config_checks.validate(config)


def existing_workdir(args: Any) -> tuple[pathlib.Path, ml_collections.ConfigDict]:
    """The --workdir of an existing run, and its config.

    Raises:
      UserError: there is no run.
    """
    workdir = workdirs.parse(args.workdir)
    return workdir, workdirs.load(workdir)
