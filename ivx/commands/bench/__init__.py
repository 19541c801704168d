"""`ivx bench`: how fast parts of ivx are, beside what others use; one file a bench."""

import importlib

from absl import flags

from ivx.errors import UserError

SUMMARY = (
    "Measure: a model, its training and a decoder beside what others use; how full packs are; what"
    " loading costs; what a conversion loses."
)
EXAMPLE = (
    "  ivx bench model --peer=transformers\n"
    "  ivx bench model --threads=2 --prompt_tokens=512 --new_tokens=64 --repeats=5 --json\n"
    "  ivx bench train --peer=transformers --size=tiny\n"
    "  ivx bench kernels --layer=64m --contexts=4096,65536\n"
    "  ivx bench decode --quick\n"
    "  make bench-decode\n"
    "  ivx bench packing --samples=1000000\n"
    "  ivx bench loading --frames=2048 --loads=20\n"
    "  ivx bench loading --soak=10000\n"
    "  ivx bench conversion --out=/tmp/ivx/conversion"
)
TAKES_WORDS = True
# Each is a file here with define_flags(), for what it alone needs, and run().
BENCHES = ("model", "train", "kernels", "decode", "packing", "loading", "conversion")


def define_flags() -> None:
    flags.DEFINE_integer("repeats", 5, "Times that everything is timed.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "Cores to use; 0 for all there are.", lower_bound=0)
    for name in BENCHES:
        _bench(name).define_flags()


def run(given, words: list[str]) -> dict:
    if len(words) != 1 or words[0] not in BENCHES:
        raise UserError(
            f"ivx bench knows {', '.join(BENCHES)}, not {' '.join(words) or 'nothing'!r}"
        )
    return _bench(words[0]).run(given)


def _bench(name: str):
    return importlib.import_module(f"{__name__}.{name}")
