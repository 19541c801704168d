"""`ivx completion`: prints a script that completes commands, flags and configs in bash or zsh."""

import importlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from ivx.commands import experiments, table
from ivx.errors import UserError

SUMMARY = "Print a completion script for bash or zsh."
EXAMPLE = """\
  source <(ivx completion bash)      (in ~/.bashrc)
  source <(ivx completion zsh)       (in ~/.zshrc, after compinit)"""
TAKES_WORDS = True
SHELLS = ("bash", "zsh")

# bash splits words at = and :, so it replaces only the text behind the last of these.
_SCRIPT = """\
_ivx() {{
  local line="${{COMP_LINE:0:COMP_POINT}}"
  local word="${{line##* }}" before="${{line% *}}"
  local rest="${{line#* }}" previous="${{before##* }}" words=""
  local prefix=""
  COMPREPLY=()
  if [[ "$before" == "${{line%% *}}" ]]; then
    words="{commands}"
  elif [[ "$word" == --config=* || "$word" == -config=* ]]; then
    prefix="${{word%%=*}}="
    word="${{word#*=}}"
    words="{configs}"
  elif [[ "$previous" == --config || "$previous" == -config ]]; then
    words="{configs}"
  else
    case "${{rest%% *}}" in
{cases}
    esac
  fi
  COMPREPLY=( $(compgen -W "$words" -- "$word") )
  if [[ -n "$ZSH_VERSION" ]]; then
    COMPREPLY=( "${{COMPREPLY[@]/#/$prefix}}" )
  elif [[ "$word" == *:* ]]; then
    COMPREPLY=( "${{COMPREPLY[@]#"${{word%:*}}:"}}" )
  fi
}}
complete -o default -F _ivx ivx
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def define_flags() -> None:
    """Defines no flags."""


def run(args: Any, words: list[str]) -> dict:
    del args
    if len(words) != 1 or words[0] not in SHELLS:
        raise UserError(f"expected bash or zsh, not {' '.join(words) or 'nothing'!r}")
    commands = command_flags(table.MODULES)
    text = script(words[0], commands, config_names())
    print(text, end="")
    return {"shell": words[0], "commands": list(commands)}


def command_flags(modules: Mapping[str, str]) -> dict[str, list[str]]:
    """The flags of each command.

    Args:
      modules: command -> module.
    """
    names = {}
    for command, module in modules.items():
        existing = set(flags.FLAGS)
        importlib.import_module(module).define_flags()
        names[command] = sorted(set(flags.FLAGS) - existing)
        # Commands share names, so each starts from an empty table.
        for name in names[command]:
            delattr(flags.FLAGS, name)
        names[command] += ["help", "json"]
    return names


def config_names() -> list[str]:
    """Every experiment with each of its presets."""
    modules = {
        name: experiments.module_of(experiments.path_of(name)) for name in experiments.names()
    }
    return [
        f"{name}:{preset}"
        for name, module in modules.items()
        for preset in experiments.presets(module)
    ]


def script(shell: str, commands: Mapping[str, list[str]], configs: list[str]) -> str:
    """The completion script.

    Args:
      shell: bash or zsh.
      commands: command -> its flags.
      configs: experiments with presets.
    """
    cases = [
        f'      {command}) words="{" ".join(f"--{name}" for name in names)}" ;;'
        for command, names in commands.items()
    ]
    text = _SCRIPT.format(
        commands=" ".join([*commands, "--help", "--version"]),
        configs=" ".join(configs),
        cases="\n".join(cases),
    )
    return (_ZSH if shell == "zsh" else "") + text
