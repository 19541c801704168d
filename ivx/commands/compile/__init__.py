"""`ivx compile`: what the compiler for TPUs says of a kernel, on a machine without a TPU."""

import importlib

from absl import flags

from ivx.errors import UserError

SUMMARY = "Compile for TPUs without one: kernels with their schedules."
EXAMPLE = (
    "  make libtpu\n"
    "  ivx compile kernel --op=latent_decode --chip=v6e,tpu7x\n"
    "  ivx compile kernel --case=latent_decode-bf16-rows8-32768 --json"
)
TAKES_WORDS = True
# Each is a file here with define_flags() and run().
KINDS = ("kernel",)


def define_flags() -> None:
    flags.DEFINE_float("timeout", 600.0, "Seconds that one compilation may take.", lower_bound=1.0)
    flags.DEFINE_string("out", None, "A Markdown file to write the tables to, too.")
    for kind in KINDS:
        _kind(kind).define_flags()


def run(given, words: list[str]) -> dict:
    if len(words) != 1 or words[0] not in KINDS:
        raise UserError(
            f"ivx compile knows {', '.join(KINDS)}, not {' '.join(words) or 'nothing'!r};"
            " `ivx compile --help` shows an example"
        )
    return _kind(words[0]).run(given)


def _kind(name: str):
    return importlib.import_module(f"{__name__}.{name}")
