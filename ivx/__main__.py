"""The `ivx` command: finds the sub-command, reads flags, exits 2 with one sentence on mistakes."""

import errno
import importlib
import json
import os
import re
import sys

from absl import flags

from ivx.errors import Interrupted, UserError

COMMANDS = (
    "data",
    "train",
    "convert",
    "recipe",
    "import-hf",
    "export-hf",
    "verify",
    "doctor",
    "evaluate",
    "chat",
    "agent",
    "report",
    "bench",
    "compile",
)


# A disk that takes no more: writes to open files name no file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(argv: list[str] | None = None) -> None:
    """Runs `ivx <command> ...` and exits.

    0: the command did its work. 1: a check failed. 2: something given cannot be used. 75: told to
    end by SIGTERM, saved, and the same command goes on.
    """
    argv = list(sys.argv if argv is None else argv)
    name = argv[1] if len(argv) > 1 else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(_overview())
            return
        if name not in COMMANDS:
            raise UserError(f"ivx has no command {name!r}; there are {', '.join(COMMANDS)}")
        result = _run(name, argv[2:])
        if result is not None and flags.FLAGS.json:
            print(json.dumps(result))
        if result is not None and result.get("ok") is False:
            sys.exit(1)
    except UserError as error:
        _refuse(str(error))
    except Interrupted as error:
        print(f"ivx: {error}; the same command goes on from there", file=sys.stderr)
        sys.exit(error.EXIT_CODE)
    except BrokenPipeError:
        # `ivx ... | head` is not an error worth a trace.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename:
            _refuse(f"{error.filename}: {error.strerror}")
        if error.errno not in _FULL:
            raise
        _refuse(f"a file could not be written: {error.strerror}; make room and start again")
    except KeyboardInterrupt:
        print("ivx: interrupted; the same command goes on where it can", file=sys.stderr)
        sys.exit(130)


def _refuse(sentence: str) -> None:
    print(f"ivx: {sentence}", file=sys.stderr)
    sys.exit(2)


def _run(name: str, arguments: list[str]) -> dict | None:
    """Parses the flags of one command and runs it."""
    command = importlib.import_module(f"ivx.commands.{name.replace('-', '_')}")
    flags.DEFINE_bool(
        "json", False, "Print the result as one JSON object on the last line of standard output."
    )
    command.define_flags()
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(f"{command.SUMMARY}\n\nExample:\n{command.EXAMPLE}\n\nFlags:\n{_flag_help()}")
        return None
    if not getattr(command, "OWN_CONFIG", False):
        _check_config_keys(arguments)
    try:
        rest = flags.FLAGS([f"ivx {name}", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{_explain(error)}; `ivx {name} --help` shows an example") from error
    except (KeyError, AttributeError) as error:  # of a config that is not one of a training run
        raise UserError(f"the config has no such key: {error}") from error
    if rest and not getattr(command, "TAKES_WORDS", False):
        raise UserError(
            f"ivx {name} does not understand {' '.join(rest)!r};"
            f" `ivx {name} --help` shows an example"
        )
    return command.run(flags.FLAGS, rest)


def _check_config_keys(arguments: list[str]) -> None:
    """Refuses --config.a.b=... for a key that no config has, with the nearest that there is."""
    keys = [found[1] for a in arguments if (found := re.match(r"--?config\.([^=]+)", a))]
    if not keys:
        return
    from ivx import config

    known = config.keys(config.base())
    for key in keys:
        if key not in known:
            raise UserError(f"the config has no key {key!r}{config.nearest(key, known)}")
    if not any(re.match(r"--?config(=|$)", argument) for argument in arguments):
        raise UserError("no --config was given whose values could be changed")


def _explain(error: flags.Error) -> str:
    """A flag error in words; what an experiment itself said of it goes first."""
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"there is no flag --{error.flagname}"
    return str(error).strip().splitlines()[-1]


def _flag_help() -> str:
    """Flags of ivx itself; absl's own are left out."""
    lines = []
    for module, found in sorted(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith(("ivx", "__main__", "ml_collections")) or module == sys.argv[0]:
            lines += [f"  --{flag.name}={flag.default!r}\n      {flag.help}" for flag in found]
    return "\n".join(lines)


def _overview() -> str:
    lines = [
        "ivx: InternVideo3 for JAX and TPU",
        "",
        "usage: ivx <command> [flags]     ivx <command> --help",
        "",
    ]
    for name in COMMANDS:
        command = importlib.import_module(f"ivx.commands.{name.replace('-', '_')}")
        lines.append(f"  {name:10s} {command.SUMMARY}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
