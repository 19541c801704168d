"""`ivx compile`: what the compiler for TPUs says of a step or a kernel, without a TPU."""

import importlib

from absl import flags

from ivx.errors import UserError

SUMMARY = "Compile for TPUs without one: a training step of a pod, kernels with their schedules."
EXAMPLE = (
    "  make libtpu\n"
    "  ivx compile --config=experiments/cpt.py --topology=v5p:4x4x4 --mesh=fsdp:64\n"
    "  ivx compile --config=experiments/rl_gspo.py --topology=v6e:16x16 \\\n"
    "      --mesh=fsdp:32,context:8 --part=decode\n"
    "  ivx compile pods --stages=cpt --topologies=v6e:16x16\n"
    "  ivx compile support --tests=tests.xml --out=docs/results/support.md\n"
    "  ivx compile kernel --op=latent_decode --chip=v6e,tpu7x\n"
    "  ivx compile kernel --case=latent_decode-bf16-rows8-32768 --json"
)
TAKES_WORDS = True
# Each is a file here with define_flags() and run().
KINDS = ("step", "kernel", "pods", "support")


def define_flags() -> None:
    flags.DEFINE_float("timeout", 3600.0, "Seconds that one compilation may take.", lower_bound=1.0)
    flags.DEFINE_string("out", None, "A Markdown file to write the tables to, too.")
    flags.DEFINE_bool("again", False, "Of kernels and pods: also what was compiled before.")
    for kind in KINDS:
        _kind(kind).define_flags()


def run(given, words: list[str]) -> dict:
    words = words or ["step"]
    if len(words) != 1 or words[0] not in KINDS:
        raise UserError(
            f"ivx compile knows {', '.join(KINDS)}, not {' '.join(words)!r};"
            " `ivx compile --help` shows an example"
        )
    return _kind(words[0]).run(given)


def _kind(name: str):
    return importlib.import_module(f"{__name__}.{name}")
