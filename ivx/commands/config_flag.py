"""The flags --config and --workdir, which several commands share."""

import pathlib
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ivx import bundled, config_checks
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
    path = flags.FLAGS["config"].config_filename.split(":")[0]
    if not pathlib.Path(path).is_file():
        raise UserError(f"--config={path}: no such file; `ivx configs` lists experiments")
    if "stage" not in args.config:
        raise UserError(f"--config={path} is not the config of a stage; `ivx recipe` runs recipes")
    return args.config


def check(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with absolute paths, so that its run can be used from another folder.

    Raises:
      UserError: a value is not allowed.
    """
    for section, key in _PATHS:
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


def load(path: pathlib.Path, preset: str) -> ml_collections.ConfigDict:
    """The config of an experiment file, not yet checked.

    Raises:
      UserError: there is no such file or preset.
    """
    return experiments.module_of(path).get_config(preset)


def existing_workdir(args: Any) -> tuple[pathlib.Path, ml_collections.ConfigDict]:
    """The --workdir of an existing run, and its config.

    Raises:
      UserError: there is no run.
    """
    workdir = workdirs.parse(args.workdir)
    return workdir, workdirs.load(workdir)
