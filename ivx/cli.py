"""The command line: finds a command, reads its flags, exits 2 with one sentence on bad input.

A command is a module with `SUMMARY`, `EXAMPLE`, `define_flags()` and `run(flags, words)`; it may
have `ACTIONS`, each with a help page of its own. `ivx` itself and `python -m benchmarks` are tables
of such modules.
"""

import importlib
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import sys
import types
from collections.abc import Mapping

from absl import flags

from ivx import help_page, local_files, signals, terminal
from ivx.errors import Interrupted, UserError
from ivx.suggestion import did_you_mean
from ivx.text.printable import misencoded

# Types of config values in words.
_KINDS = {int: "a whole number", float: "a number", bool: "a truth value", tuple: "a list"}


def main(program: str, headline: str, commands: Mapping[str, str], argv: list[str]) -> None:
    """Runs `program <command> ...` and exits.

    Exit codes: 0, the command did its work. 1, a check failed. 2, bad input. 75, stopped by
    SIGTERM after saving; the same command goes on. 130, stopped by Ctrl-C; a second Ctrl-C ends any
    command at once.

    Args:
      program: as users type it.
      headline: the first line of the overview.
      commands: module by command name.
      argv: the program's path, then the command and its arguments.
    """
    terminal.install()
    name = argv[1] if len(argv) > 1 else "--help"
    with signals.heard((signal.SIGINT,), _Patience().hear, signal.default_int_handler):
        _dispatch(program, headline, commands, name, argv)


def _dispatch(
    program: str, headline: str, commands: Mapping[str, str], name: str, argv: list[str]
) -> None:
    """Runs a command, and turns its errors into sentences and exit codes."""
    again = shlex.join([*program.split(), *argv[1:]])
    try:
        if name in ("-h", "--help", "help"):
            print(help_page.overview(program, headline, commands))
            return
        if name not in commands:
            hint = did_you_mean(name, commands) or f"; there are {', '.join(commands)}"
            raise UserError(f"{program} has no command {name!r}{hint}")
        _check_encoding(argv[2:])
        result = _run(program, name, commands[name], argv[2:])
        if result is not None and flags.FLAGS.json:
            print(json.dumps(result))
        if result is not None and result.get("ok") is False:
            sys.exit(1)
    except UserError as error:
        _reject(str(error))
    except Interrupted as error:
        print(f"ivx: {error}; to go on: {again}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"ivx: stopped by Ctrl-C; to start again: {again}", file=sys.stderr)
        sys.exit(Interrupted.BY_HAND)
    except BrokenPipeError:
        # `ivx ... | head` deserves no traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        # Libraries report a full disk with errors of their own.
        from data_pipelines import disk_full

        if full := disk_full.sentence(error):
            _reject(full)
        if isinstance(error, OSError) and error.filename:
            _reject(f"{error.filename}: {error.strerror}")
        raise


class _Patience:
    """Ends the process at the second Ctrl-C: the first may be lost inside a library."""

    def __init__(self) -> None:
        self._heard = False

    def hear(self, number: int) -> None:
        if self._heard:
            os._exit(128 + number)
        self._heard = True


def _check_encoding(arguments: list[str]) -> None:
    """Rejects bytes that are not UTF-8, which could be neither tokenized nor written to a file."""
    for argument in arguments:
        if misencoded(argument):
            raise UserError(
                f"the argument {ascii(argument)[:200]} is not UTF-8; rename the file, or set the"
                " terminal to UTF-8"
            )


def _reject(sentence: str) -> None:
    print(f"ivx: {sentence}", file=sys.stderr)
    sys.exit(2)


def _run(program: str, name: str, module: str, arguments: list[str]) -> dict | None:
    """Parses the flags of one command and runs it."""
    command = importlib.import_module(module)
    flags.DEFINE_bool(
        "json", False, "Print the result as one JSON object on the last line of standard output."
    )
    command.define_flags()
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(help_page.page(program, name, command, arguments))
        return None
    _check_values(arguments)
    if "config" in flags.FLAGS:
        from ivx.commands import experiments

        _check_config(arguments, getattr(command, "OWN_CONFIG", False))
        arguments = experiments.resolve_arguments(arguments)
    try:
        rest = flags.FLAGS([f"{program} {name}", *arguments])[1:]
    except flags.Error as error:
        raise UserError(
            f"{_explain(error, command)}; `{program} {name} --help` shows an example"
        ) from error
    if rest and not getattr(command, "TAKES_WORDS", False):
        raise UserError(
            f"{program} {name} does not understand {' '.join(rest)!r};"
            f" `{program} {name} --help` shows an example"
        )
    _check_action(f"{program} {name}", command, rest)
    return command.run(flags.FLAGS, rest)


def _check_values(arguments: list[str]) -> None:
    """Rejects addresses, and a second value of a flag that takes one."""
    seen = set()
    for argument, following in itertools.pairwise([*arguments, ""]):
        if not (match := re.match(r"--?([a-z][\w.]*)(?:=(.*))?$", argument, re.DOTALL)):
            continue
        name, value = match[1], following if match[2] is None else match[2]
        several = name not in flags.FLAGS or isinstance(flags.FLAGS[name], flags.MultiFlag)
        if name in seen and not several:
            raise UserError(f"--{name} was given twice; give it once")
        seen.add(name)
        if name not in ("question", "prompt"):
            local_files.check(value, name)


def _check_action(command_line: str, command: types.ModuleType, words: list[str]) -> None:
    """Rejects flags of a command that its action would ignore."""
    action = getattr(command, "ACTIONS", {}).get(words[0] if len(words) == 1 else "")
    if action is None:
        return
    for name in sorted(set(flags.FLAGS) - set(action.flags) - {"json"}):
        flag = flags.FLAGS[name]
        given = flag.present and not name.startswith("config.")
        if given and flag.help is not None:
            raise UserError(
                f"{command_line} {words[0]} does not use --{name}; its flags are"
                f" {', '.join(f'--{known}' for known in action.flags)}"
            )


def _check_config(arguments: list[str], recipe: bool) -> None:
    """Checks the config that is named, and the keys of every --config.KEY=VALUE."""
    from ivx.commands import experiments

    name = experiments.given(arguments)
    keys = [match[1] for a in arguments if (match := re.match(r"--?config\.([^=]+)", a))]
    if not keys and name is None:
        return
    from ivx import config, config_keys, config_synonyms, workdir

    known = elsewhere = config_keys.everything()
    if name is not None:
        path, _, preset = experiments.resolve(name).partition(":")
        if not path:
            raise UserError(
                f"--config={name} names no experiment; there are {', '.join(experiments.names())}"
            )
        given = experiments.load(pathlib.Path(path), preset)
        experiments.check_kind(given, name, recipe)
        known = config.keys(given)
    for key in keys:
        if (current := workdir.renamed(key)) != key:
            raise UserError(f"{key} is called {current} now")
        if key not in known and key in elsewhere and not recipe:
            stages = [stage for stage in config_keys.STAGES if key in config_keys.of(stage)]
            raise UserError(
                f"the stage {given.stage.name} has no key {key}; it belongs to {', '.join(stages)}"
            )
        if key not in known:
            raise UserError(f"the config has no key {key!r}{config_synonyms.nearest(key, known)}")
    if name is None:
        raise UserError("--config.KEY=VALUE needs a --config to change")


def _explain(error: flags.Error, command: types.ModuleType) -> str:
    """A flag error in words; an experiment's own error takes precedence."""
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        ours = [key for key in flags.FLAGS if "." not in key]
        hint = getattr(command, "HINTS", {}).get(name) or did_you_mean(name, ours)
        return f"there is no flag --{name}{hint.replace('mean ', 'mean --')}"
    sentence = str(error).strip().splitlines()[-1]
    if match := re.match(r"flag --config\.([\w.]+)=(.*?): ", sentence, re.DOTALL):
        from ivx import config_keys

        if key := config_keys.everything().get(match[1]):
            kind = _KINDS.get(type(key.default), "a value")
            return f"--config.{match[1]}={match[2]}: expected {kind} ({key.allowed})"
    return sentence
