"""The `ivx` command: finds the sub-command, reads flags, exits 2 with one sentence on mistakes."""

import importlib
import json
import os
import sys

from absl import flags

from ivx.errors import UserError

COMMANDS = ("data", "train", "evaluate", "chat", "report")


def main(argv: list[str] | None = None) -> None:
    """Runs `ivx <command> ...`; exits 0 only when the command did its work."""
    argv = list(sys.argv if argv is None else argv)
    name = argv[1] if len(argv) > 1 else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(_overview())
            return
        if name not in COMMANDS:
            raise UserError(f"ivx has no command {name!r}; there are {', '.join(COMMANDS)}")
        result = _run(name, argv[2:])
    except UserError as error:
        print(f"ivx: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "ivx: interrupted; the same command goes on from the last checkpoint", file=sys.stderr
        )
        sys.exit(130)
    if result is not None and flags.FLAGS.json:
        print(json.dumps(result))


def _run(name: str, arguments: list[str]) -> dict | None:
    """Parses the flags of one command and runs it."""
    command = importlib.import_module(f"ivx.commands.{name}")
    flags.DEFINE_bool(
        "json", False, "Print the result as one JSON object on the last line of standard output."
    )
    command.define_flags()
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(f"{command.SUMMARY}\n\nExample:\n{command.EXAMPLE}\n\nFlags:\n{_flag_help()}")
        return None
    try:
        rest = flags.FLAGS([f"ivx {name}", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{_explain(error)}; `ivx {name} --help` shows an example") from error
    if rest and not getattr(command, "TAKES_WORDS", False):
        raise UserError(
            f"ivx {name} does not understand {' '.join(rest)!r};"
            f" `ivx {name} --help` shows an example"
        )
    return command.run(flags.FLAGS, rest)


def _explain(error: flags.Error) -> str:
    """A flag error in words; a config key that does not exist gets the nearest one."""
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config."):
            from ivx import config

            key = error.flagname.removeprefix("config.")
            return f"the config has no key {key!r}{config.nearest(key, config.keys(config.base()))}"
        return f"there is no flag --{error.flagname}"
    return str(error).strip()


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
        command = importlib.import_module(f"ivx.commands.{name}")
        lines.append(f"  {name:9s} {command.SUMMARY}")
    return "\n".join(lines)


if __name__ == "__main__":
    # A closed pipe (`ivx ... | head`) is not an error worth a trace.
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
