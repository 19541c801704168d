"""The pages of `--help`: an overview of a program, a command, or an action of a command."""

import importlib
import sys
import types
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from absl import flags


class Action(NamedTuple):
    """What a command does after a word, as in `ivx data check`; it has a page of its own.

    Attributes:
      summary: one line.
      example: command lines, indented by two spaces.
      flags: the flags that it takes, besides --json.
    """

    summary: str
    example: str
    flags: tuple[str, ...]


def overview(program: str, headline: str, commands: Mapping[str, str]) -> str:
    """All commands of a program.

    Args:
      program: as users type it.
      headline: the first line.
      commands: module by command name.
    """
    lines = [
        headline,
        "",
        f"usage: {program} <command> [flags]     {program} <command> --help",
        "",
    ]
    for name, module in commands.items():
        lines.append(f"  {name:11s} {importlib.import_module(module).SUMMARY}")
    return "\n".join(lines)


def page(program: str, name: str, command: types.ModuleType, words: Iterable[str]) -> str:
    """The page of a command whose flags are defined, or of the action among `words`."""
    actions: Mapping[str, Action] = getattr(command, "ACTIONS", {})
    action = next((actions[word] for word in words if word in actions), None)
    if action:
        parts = [action.summary, f"Example:\n{action.example}"]
        parts += ["Flags:\n" + _flags([*action.flags, "json"])]
        return "\n\n".join(parts)
    parts = [command.SUMMARY, f"Example:\n{command.EXAMPLE}"]
    if actions:
        lines = [f"  {word:11s} {action.summary}" for word, action in actions.items()]
        lines.append(f"\n`{program} {name} ACTION --help` shows an example and the flags.")
        return "\n\n".join([*parts, "Actions:\n" + "\n".join(lines)])
    if details := getattr(command, "details", None):
        parts.append(details())
    parts.append("Flags:\n" + _flags())
    return "\n\n".join(parts)


def _flags(names: Iterable[str] | None = None) -> str:
    """The flags of these names, or all that ivx itself defines, without absl's."""
    if names is not None:
        return "\n".join(_flag(flags.FLAGS[name]) for name in names)
    ours = ("ivx", "benchmarks", "__main__", "ml_collections")
    return "\n".join(
        _flag(flag)
        for module, defined in sorted(flags.FLAGS.flags_by_module_dict().items())
        if module.startswith(ours) or module == sys.argv[0]
        for flag in defined
    )


def _flag(flag: flags.Flag) -> str:
    return f"  --{flag.name}={flag.default!r}\n      {flag.help}"
