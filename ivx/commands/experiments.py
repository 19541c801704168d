"""Experiments by name: where `--config=sft_short:tiny` finds its file, and what the file says."""

import importlib.util
import pathlib
import re
import types
from collections.abc import Sequence

import ml_collections

from ivx import config as configs
from ivx.errors import UserError

_CONFIG_FLAG = re.compile(r"--?config(=.*)?$", re.DOTALL)


def folder() -> pathlib.Path:
    """The folder of the `experiments` package, which is installed beside `ivx`."""
    return pathlib.Path(__file__).parents[2] / "experiments"


def names() -> list[str]:
    """All experiments, by name."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def path_of(name: str) -> pathlib.Path:
    """The file of an experiment.

    Raises:
      UserError: there is no experiment of this name.
    """
    if name not in names():
        raise UserError(f"there is no experiment {name!r}{_nearest(name)}")
    return folder() / f"{name}.py"


def _nearest(name: str) -> str:
    hint = configs.nearest(name, names())
    experiments = f"; experiments are {', '.join(names())}"
    return hint + experiments if "did you mean" in hint else experiments


def resolve(config: str) -> str:
    """`sft_short:tiny` with the path of its file for the name; a path stays as it is.

    Raises:
      UserError: there is no experiment of this name.
    """
    name, colon, preset = config.partition(":")
    if not name or "/" in name or name.startswith("-") or name.endswith(".py"):
        return config
    return f"{path_of(name)}{colon}{preset}"


def resolve_arguments(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with every `--config NAME` and `--config=NAME` resolved.

    Raises:
      UserError: there is no experiment of this name.
    """
    resolved, is_value = [], False
    for argument in arguments:
        flag = _CONFIG_FLAG.match(argument)
        if is_value:
            argument = resolve(argument)
        elif flag and flag[1]:
            name, _, value = argument.partition("=")
            argument = f"{name}={resolve(value)}"
        is_value = bool(flag) and not flag[1] and not is_value
        resolved.append(argument)
    return resolved


def module_of(path: pathlib.Path) -> types.ModuleType:
    """The module of an experiment file.

    Raises:
      UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"there is no experiment at {path}")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def presets(module: types.ModuleType) -> list[str]:
    """The presets of an experiment; without a table of them, those that its docstring lists."""
    if hasattr(module, "PRESETS"):
        return list(module.PRESETS)
    return [word for word in re.findall(r"^(\w+)  +\S", module.__doc__, re.M) if _has(module, word)]


def _has(module: types.ModuleType, preset: str) -> bool:
    try:
        module.get_config(preset)
    except UserError:
        return False
    return True


def summary(module: types.ModuleType, preset: str = "") -> str:
    """The docstring's first line, or the first sentence that it has about a preset."""
    if not preset:
        return module.__doc__.splitlines()[0]
    line = re.search(rf"^{re.escape(preset)} +(\S.*(?:\n {{2,}}\S.*)*)", module.__doc__, re.M)
    return " ".join(line[1].split()).split(". ")[0].rstrip(".") if line else ""


def needs(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Keys that the user has to give for a config, each with what it names."""
    if "stages" in config:
        # A recipe: it may write its data, train its base and leave out distillation.
        recipe = {
            "mixture": "" if config.synthesize else "a mixture file",
            "base": "" if config.base else "a Hugging Face folder",
            "teacher": "" if config.teacher else "a Hugging Face folder, for opd",
        }
        return {key: meaning for key, meaning in recipe.items() if meaning}
    required = {} if config.data.mixture else {"data.mixture": "a mixture file"}
    if config.run.follows and not config.run.start:
        required["run.start"] = f"the output of {config.run.follows}"
    elif config.stage.name == "convert" and not config.run.start:
        required["run.start"] = "a model with grouped attention"
    if config.stage.get("teacher") == "":
        required["stage.teacher"] = "the teacher's workdir or Hugging Face folder"
    return required
