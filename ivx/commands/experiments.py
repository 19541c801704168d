"""Experiments by name: where `--config=sft_short:tiny` finds its file, and what the file says.

The file may be anyone's: whatever is wrong with it is told in one sentence.
"""

import importlib.util
import itertools
import pathlib
import re
import types
from collections.abc import Sequence

import ml_collections

from ivx import config as configs
from ivx import config_keys
from ivx.errors import UserError
from ivx.suggestion import did_you_mean

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
        raise UserError(
            f"there is no experiment {name!r}{did_you_mean(name, names())};"
            f" experiments are {', '.join(names())}"
        )
    return folder() / f"{name}.py"


def resolve(config: str) -> str:
    """`sft_short:tiny` with the path of its file for the name; a path stays as it is.

    What contains a slash, ends in .py, or is the name of a file, is a path.

    Raises:
      UserError: there is no experiment of this name.
    """
    name, colon, preset = config.partition(":")
    if not name or "/" in name or name.startswith("-") or name.endswith(".py"):
        return config
    if name not in names() and pathlib.Path(name).exists():
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


def given(arguments: Sequence[str]) -> str | None:
    """The value of the last `--config` among command-line arguments; None if there is none."""
    value = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        if flag := _CONFIG_FLAG.match(argument):
            value = flag[1][1:] if flag[1] else following
    return value


def load(path: pathlib.Path, preset: str = "") -> ml_collections.ConfigDict:
    """The config of an experiment file, not yet checked.

    Args:
      path: the file.
      preset: the preset; empty for the one that the file takes by default.

    Raises:
      UserError: the file cannot be read, has no such preset, or makes no config.
    """
    module = module_of(path)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} is no config: it lacks a function get_config(preset); {_EXAMPLES}")
    try:
        config = module.get_config(preset) if preset else module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"get_config of {path} failed: {_reason(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config of {path} returns a {type(config).__name__}, no ConfigDict; {_EXAMPLES}"
        )
    return config


def check_kind(config: ml_collections.ConfigDict, name: str, recipe: bool) -> None:
    """Checks that a config is a recipe's, or that of a stage with all of its keys.

    Args:
      config: the config.
      name: as the user gave it.
      recipe: whether a recipe is expected.

    Raises:
      UserError: it is another.
    """
    if recipe and "stages" not in config:
        raise UserError(
            f"--config={name} is not a recipe; take one, as in --config=recipe:tiny"
            " (`ivx train` and `ivx convert` run single stages)"
        )
    if recipe:
        return
    stages = [experiment for experiment in names() if experiment != "recipe"]
    if "stages" in config:
        raise UserError(
            f"--config={name} is a recipe, which `ivx recipe` runs; give the config of a stage,"
            f" one of {', '.join(stages)}"
        )
    flat = configs.flatten(config)
    if flat.get("stage.name") not in config_keys.STAGES:
        raise UserError(f"--config={name} is not the config of a stage; {_EXAMPLES}")
    needed = config_keys.of(flat["stage.name"])
    if missing := [key for key in needed if key not in flat]:
        raise UserError(
            f"--config={name} lacks {', '.join(missing[:3])}{' and more' * (len(missing) > 3)};"
            " begin with `ivx.config.base()`, which has every key"
        )


_EXAMPLES = "`ivx configs` lists those that ship with ivx"


def _reason(error: BaseException) -> str:
    """An error of another's code on one line."""
    place = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(words.split())[:200]}{place}"


def module_of(path: pathlib.Path) -> types.ModuleType:
    """The module of an experiment file.

    Raises:
      UserError: there is no such file, or it is no Python that runs.
    """
    if not path.is_file():
        raise UserError(_no_file(path))
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or path.suffix != ".py":
        raise UserError(f"{path} is no Python file, as a config is; {_EXAMPLES}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be used as a config: {_reason(error)}") from error
    return module


def _no_file(path: pathlib.Path) -> str:
    """What there is in place of a file."""
    if path.is_dir():
        what, place = f"{path} is a folder; name a file in it, or an experiment", path
    else:
        what, place = f"there is no file {path}", path.parent
    if path.stem in names():
        return f"{what}; the experiment that ships with ivx is --config={path.stem}"
    own = place.resolve() == folder().resolve() or not place.is_dir()
    files = [] if own else sorted(file.name for file in place.glob("[!._]*.py"))
    there = f"; {place} has {', '.join(files[:5])}" if files else ""
    return f"{what}{there}; experiments are {', '.join(names())}"


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
