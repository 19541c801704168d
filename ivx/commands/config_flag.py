"""The flags --config and --workdir, as several commands take them."""

import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from ivx import config as configs
from ivx.errors import UserError


def define() -> None:
    """Defines --config=experiments/x.py[:preset], --config.section.key=value and --workdir."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment, as experiments/sft_short.py:tiny; --config.section.key=value changes a value.",
    )
    flags.DEFINE_string("workdir", "", "Folder of the run.")


def read(given) -> ml_collections.ConfigDict:
    """The checked config.

    Raises:
      UserError: none was given, or it cannot be used.
    """
    if given.config is None:
        raise UserError(
            "no --config was given; take an experiment,"
            " as in --config=experiments/sft_short.py:tiny"
        )
    path = flags.FLAGS["config"].config_filename.split(":")[0]
    if not pathlib.Path(path).is_file():
        raise UserError(f"--config={path}: no such file; experiments/ holds those there are")
    config = given.config
    if config.data.mixture:  # that the run can be evaluated from another folder
        config.data.mixture = str(pathlib.Path(config.data.mixture).resolve())
    configs.validate(config)
    return config


def existing_workdir(given) -> tuple[pathlib.Path, ml_collections.ConfigDict]:
    """A workdir that holds a run, and its config.

    Raises:
      UserError: there is no run.
    """
    from ivx import build

    workdir = build.workdir(given.workdir)
    return workdir, configs.load_workdir(workdir)
