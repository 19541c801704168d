"""`ivx export-hf`: writes a trained model as a folder that `transformers` loads."""

import pathlib
from typing import Any

from absl import flags

from ivx.commands import memory_check
from ivx.errors import UserError

SUMMARY = "Write the newest checkpoint of a run as a Hugging Face folder."
EXAMPLE = "  ivx export-hf --workdir=/tmp/ivx/sft --out=/tmp/ivx/internvideo3-tiny"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Workdir of the run.")
    flags.DEFINE_string("out", "", "Folder to write; must be empty or absent.")
    flags.DEFINE_enum(
        "dtype",
        "bfloat16",
        ["bfloat16", "float32"],
        "Dtype of the weights; training keeps float32.",
    )
    flags.DEFINE_float("shard_gb", 5.0, "Largest file of weights, in GB.", lower_bound=1e-6)
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    if not args.out:
        raise UserError("no --out was given; name the folder to write, as in --out=/tmp/ivx/model")
    from ivx import from_config
    from ivx import workdir as workdirs

    model = from_config.stored_model.open_model(workdirs.parse(args.workdir))
    memory_check.check(
        from_config.memory_forecast.reading(model.definition, args.dtype),
        args.ignore_memory_forecast,
        lambda sizes: memory_check.dtype_knobs(args.dtype),
    )
    return from_config.export.export_model(model, pathlib.Path(args.out), args.dtype, args.shard_gb)
