"""The flags --config and --workdir, as several commands take them."""

import importlib.util
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from ivx import config as configs
from ivx.errors import UserError


def define() -> None:
    """Defines --config=experiments/x.py[:preset], --config.section.key=value and --workdir."""
    define_config()
    flags.DEFINE_string("workdir", "", "Folder of the run.")


def define_config() -> None:
    """Defines --config=experiments/x.py[:preset] and --config.section.key=value."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment, as experiments/sft_short.py:tiny; --config.section.key=value changes a value.",
    )


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
    return check(given.config)


def check(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with absolute paths, so that its run can be used from another folder.

    Raises:
      UserError: a value is not allowed.
    """
    for section, key in (("data", "mixture"), ("run", "start"), ("stage", "teacher")):
        if config[section][key]:
            config[section][key] = str(pathlib.Path(config[section][key]).resolve())
    configs.validate(config)
    if not config.data.mixture:
        raise UserError(
            "no --config.data.mixture was given; name a mixture file,"
            " as `ivx data synthesize` makes it"
        )
    return config


def load(path: pathlib.Path, preset: str) -> ml_collections.ConfigDict:
    """The config of an experiment file, not yet checked.

    Raises:
      UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"there is no experiment at {path}")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def existing_workdir(given) -> tuple[pathlib.Path, ml_collections.ConfigDict]:
    """A workdir that holds a run, and its config.

    Raises:
      UserError: there is no run.
    """
    from ivx import build

    workdir = build.workdir(given.workdir)
    return workdir, configs.load_workdir(workdir)
