"""`ivx import-hf`: imports a Hugging Face model as a workdir."""

import pathlib
import shutil
from typing import Any

from absl import flags

from ivx import folder_lock
from ivx.commands import memory_check
from ivx.errors import UserError, keeping

SUMMARY = "Import Qwen3-VL or InternVideo3 weights from a Hugging Face folder as a workdir."
EXAMPLE = "  ivx import-hf --source=/models/Qwen3-VL-8B-Instruct --workdir=/tmp/ivx/qwen"


def define_flags() -> None:
    flags.DEFINE_string("source", "", "Hugging Face folder to import; it is not changed.")
    flags.DEFINE_string("workdir", "", "Folder to write; must be empty or absent.")
    flags.DEFINE_bool(
        "allow_nonfinite", False, "Import weights that are NaN or infinite as they are."
    )
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs

    if not args.source:
        raise UserError("no --source was given; name a folder, as in --source=/models/qwen3-vl-8b")
    return import_model(
        pathlib.Path(args.source),
        workdirs.parse(args.workdir),
        args.allow_nonfinite,
        args.ignore_memory_forecast,
    )


def import_model(
    source: pathlib.Path,
    workdir: pathlib.Path,
    allow_nonfinite: bool = False,
    ignore_memory_forecast: bool = False,
) -> dict:
    """Writes the model of a Hugging Face folder as checkpoint 0 of a workdir.

    Args:
      source: the folder.
      workdir: absent or empty.
      allow_nonfinite: accept weights that are NaN or infinite.
      ignore_memory_forecast: start even if memory does not seem to suffice.

    Raises:
      UserError: the workdir is in use or not empty, or ivx does not support the model.
    """
    with folder_lock.inside(workdir), keeping(f"{workdir} is incomplete and will be rewritten"):
        return _import(source, workdir, allow_nonfinite, ignore_memory_forecast)


def _import(
    source: pathlib.Path,
    workdir: pathlib.Path,
    allow_nonfinite: bool,
    ignore_memory_forecast: bool,
) -> dict:
    import jax
    import numpy as np

    from ivx import config as configs
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices
    from ivx.training.checkpoints import checkpoint

    # An interrupted import leaves checkpoints, and perhaps half of config.json.
    names = {path.name for path in workdir.iterdir()} - {folder_lock.NAME}
    if names - {checkpoint.FOLDER, workdirs.PARTIAL}:
        raise UserError(f"--workdir={workdir} is not empty; give a folder that is empty or absent")
    config = from_config.hf_folder.config_of(source)
    from_config.data.layout_rule(config)
    shutil.rmtree(workdir / checkpoint.FOLDER, ignore_errors=True)
    devices.configure_devices(cpu_devices=0)
    definition = from_config.model.definition(config)
    memory_check.check(from_config.memory_forecast.reading(definition), ignore_memory_forecast)
    params = from_config.hf_folder.read_params(source, definition, allow_nonfinite=allow_nonfinite)
    count = sum(int(np.prod(array.shape)) for array in jax.tree.leaves(params))
    # config.json is written last, so that a workdir with one is complete.
    checkpoint.save_params(workdir, params, configs.snapshot(config))
    workdirs.claim(workdir, config)
    print(
        f"{workdir}: {count:,} parameters of {source}, model {config.model.preset} with"
        f" {config.model.attention}, tokenizer {config.data.tokenizer}"
    )
    return {
        "workdir": str(workdir),
        "parameters": count,
        "preset": config.model.preset,
        "attention": config.model.attention,
        "tokenizer": config.data.tokenizer,
    }
