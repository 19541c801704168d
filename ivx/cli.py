"""The command line: finds a command, reads its flags, exits 2 with one sentence on bad input.

A command is a module with `SUMMARY`, `EXAMPLE`, `define_flags()` and `run(flags, words)`. `ivx`
itself and `python -m benchmarks` are tables of such modules.
"""

import difflib
import errno
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping

from absl import flags

from ivx.errors import Interrupted, UserError

# Disk errors of a write, which name no file.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(program: str, headline: str, commands: Mapping[str, str], argv: list[str]) -> None:
    """Runs `program <command> ...` and exits.

    Exit codes: 0, the command did its work. 1, a check failed. 2, bad input. 75, stopped by
    SIGTERM after saving; the same command continues.

    Args:
      program: as users type it.
      headline: the first line of the overview.
      commands: module by command name.
      argv: the program's path, then the command and its arguments.
    """
    name = argv[1] if len(argv) > 1 else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(_overview(program, headline, commands))
            return
        if name not in commands:
            close = difflib.get_close_matches(name, commands, 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(commands)}"
            raise UserError(f"{program} has no command {name!r}; {hint}")
        result = _run(program, name, commands[name], argv[2:])
        if result is not None and flags.FLAGS.json:
            print(json.dumps(result))
        if result is not None and result.get("ok") is False:
            sys.exit(1)
    except UserError as error:
        _reject(str(error))
    except Interrupted as error:
        print(f"ivx: {error}; the same command continues from there", file=sys.stderr)
        sys.exit(error.EXIT_CODE)
    except BrokenPipeError:
        # `ivx ... | head` deserves no traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename:
            _reject(f"{error.filename}: {error.strerror}")
        if error.errno not in _DISK_FULL:
            raise
        _reject(f"a file could not be written: {error.strerror}; free some space and start again")
    except KeyboardInterrupt:
        print("ivx: interrupted; the same command continues where it can", file=sys.stderr)
        sys.exit(130)


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
        print(f"{command.SUMMARY}\n\nExample:\n{command.EXAMPLE}\n\nFlags:\n{_flag_help()}")
        return None
    if "config" in flags.FLAGS:
        from ivx.commands import experiments

        arguments = experiments.resolve_arguments(arguments)
    if not getattr(command, "OWN_CONFIG", False):
        _check_config_keys(arguments)
    try:
        rest = flags.FLAGS([f"{program} {name}", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{_explain(error)}; `{program} {name} --help` shows an example") from error
    except (KeyError, AttributeError) as error:  # the config does not belong to a training run
        raise UserError(
            f"this config has no such key: {error}; `ivx configs --show EXPERIMENT` lists its keys,"
            " `ivx configs --explain KEY` the stages that have one"
        ) from error
    if rest and not getattr(command, "TAKES_WORDS", False):
        raise UserError(
            f"{program} {name} does not understand {' '.join(rest)!r};"
            f" `{program} {name} --help` shows an example"
        )
    return command.run(flags.FLAGS, rest)


def _check_config_keys(arguments: list[str]) -> None:
    """Rejects --config.a.b=... for an unknown key and suggests the nearest one."""
    keys = [match[1] for a in arguments if (match := re.match(r"--?config\.([^=]+)", a))]
    if not keys:
        return
    from ivx import config, config_keys, workdir

    known = list(config_keys.everything())
    for key in keys:
        if (current := workdir.renamed(key)) != key:
            raise UserError(f"{key} is called {current} now")
        if key not in known:
            raise UserError(f"the config has no key {key!r}{config.nearest(key, known)}")
    if not any(re.match(r"--?config(=|$)", argument) for argument in arguments):
        raise UserError("--config.KEY=VALUE needs a --config to change")


def _explain(error: flags.Error) -> str:
    """A flag error in words; an experiment's own error takes precedence."""
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"there is no flag --{error.flagname}"
    return str(error).strip().splitlines()[-1]


def _flag_help() -> str:
    """Flags of ivx itself, without absl's."""
    lines = []
    ours = ("ivx", "benchmarks", "__main__", "ml_collections")
    for module, defined in sorted(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith(ours) or module == sys.argv[0]:
            lines += [f"  --{flag.name}={flag.default!r}\n      {flag.help}" for flag in defined]
    return "\n".join(lines)


def _overview(program: str, headline: str, commands: Mapping[str, str]) -> str:
    lines = [
        headline,
        "",
        f"usage: {program} <command> [flags]     {program} <command> --help",
        "",
    ]
    for name, module in commands.items():
        lines.append(f"  {name:11s} {importlib.import_module(module).SUMMARY}")
    return "\n".join(lines)
