"""`ivx configs`: lists experiments and their presets, explains keys, prints whole configs."""

import functools
import pathlib
from typing import Any

import ml_collections
from absl import flags

from ivx import config as configs
from ivx import config_keys, config_synonyms
from ivx.commands import experiments
from ivx.errors import UserError

SUMMARY = "List experiments and presets, explain a config key, or print a config."
EXAMPLE = """\
  ivx configs
  ivx configs --explain=optim.learning_rate
  ivx configs --show=sft_short:tiny"""
TAKES_WORDS = True
HINTS = {"config": "; --show=NAME:PRESET prints a config, --explain=KEY explains a key"}


def define_flags() -> None:
    flags.DEFINE_string("explain", "", "A key, such as optim.learning_rate or learning_rate.")
    flags.DEFINE_string("show", "", "An experiment and preset, such as sft_short:tiny.")


def run(args: Any, words: list[str]) -> dict:
    if words:
        raise UserError(
            f"ivx configs does not understand {' '.join(words)!r}; --show={words[0]} prints a"
            f" config, --explain={words[0]} explains a key"
        )
    if args.explain and args.show:
        raise UserError("--explain and --show exclude each other; give one of them")
    if args.explain:
        return explain(args.explain)
    return show(args.show) if args.show else list_experiments()


def list_experiments() -> dict:
    """Prints every experiment with its presets, and what the user has to give for them."""
    result = {}
    for name in experiments.names():
        module = experiments.module_of(experiments.path_of(name))
        print(f"{name}: {experiments.summary(module)}")
        presets = {}
        for preset in experiments.presets(module):
            summary = experiments.summary(module, preset)
            needs = experiments.needs(module.get_config(preset))
            presets[preset] = {"summary": summary, "needs": needs}
            print(f"    {name}:{preset}" + (f"\n        {summary}" if summary else ""))
            if needs:
                listed = ", ".join(f"--config.{key} ({what})" for key, what in needs.items())
                print(f"        needs {listed}")
        result[name] = {"summary": experiments.summary(module), "presets": presets}
    print("\n`ivx configs --show NAME:PRESET` prints a config, `--explain KEY` explains a key")
    return {"experiments": result}


def explain(name: str) -> dict:
    """Prints section, default, meaning and allowed values of a key, for each stage that differs.

    Also prints the experiments that change the default.

    Args:
      name: a dotted key, or its last part.

    Raises:
      UserError: there is no such key.
    """
    known = config_keys.everything()
    matches = [key for key in known if name in (key, key.partition(".")[2])]
    if not matches:
        raise UserError(f"the config has no key {name!r}{config_synonyms.nearest(name, known)}")
    entries = [entry for key in matches for entry in _entries(key)]
    everything = _all_configs()
    for entry in entries:
        entry["experiments"] = {
            experiment: flat[entry["key"]]
            for experiment, flat in everything.items()
            if flat.get("stage.name") in entry["stages"]
            and flat[entry["key"]] != configs.as_lists(entry["default"])
        }
    for entry in entries:
        print(entry["key"])
        print(f"  section  {entry['section']}")
        print(f"  default  {entry['default']!r}")
        print(f"  meaning  {entry['meaning']}")
        print(f"  allowed  {entry['allowed']}")
        print(f"  stages   {', '.join(entry['stages'])}")
        for name, value in entry["experiments"].items():
            print(f"  set by   {name}: {value!r}")
    return {"keys": entries}


@functools.cache
def _all_configs() -> dict[str, dict[str, object]]:
    """Dotted key -> value of each experiment with each preset."""
    modules = {
        name: experiments.module_of(experiments.path_of(name)) for name in experiments.names()
    }
    return {
        f"{name}:{preset}": configs.flatten(module.get_config(preset))
        for name, module in modules.items()
        for preset in experiments.presets(module)
    }


def _entries(key: str) -> list[dict]:
    """One entry for each different definition of a key among the stages."""
    if key == "stage.name":
        definitions = {stage: config_keys.everything()[key] for stage in config_keys.STAGES}
    else:
        tables = {stage: config_keys.of(stage) for stage in config_keys.STAGES}
        definitions = {stage: table[key] for stage, table in tables.items() if key in table}
    grouped: dict[tuple, list[str]] = {}
    for stage, entry in definitions.items():
        grouped.setdefault((entry.default, entry.meaning, entry.allowed), []).append(stage)
    return [
        {
            "key": key,
            "section": key.split(".")[0],
            "default": default,
            "meaning": meaning,
            "allowed": allowed,
            "stages": stages,
        }
        for (default, meaning, allowed), stages in grouped.items()
    ]


def show(name: str) -> dict:
    """Prints a whole config with the meaning of each key as a comment.

    Raises:
      UserError: there is no such experiment or preset.
    """
    path, _, preset = experiments.resolve(name).partition(":")
    config = experiments.load(pathlib.Path(path), preset)
    print(f"# {name}: {experiments.summary(experiments.module_of(pathlib.Path(path)))}")
    meanings = _meanings(config)
    flat = configs.flatten(config)
    width = max(len(f"{key} = {value!r}") for key, value in flat.items() if len(repr(value)) < 30)
    section = ""
    for key, value in flat.items():
        if key.split(".")[0] != section:
            section = key.split(".")[0]
            print()
        line = f"{key} = {value!r}"
        print(f"{line:{width}s}  # {meanings[key]}" if key in meanings else line)
    return {"config": config.to_dict()}


def _meanings(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The meaning of each key; none for a recipe, whose keys are described in its file."""
    if "stage" not in config:
        return {}
    known = {"stage.name": config_keys.everything()["stage.name"]}
    known |= config_keys.of(config.stage.name)
    return {key: entry.meaning for key, entry in known.items()}
