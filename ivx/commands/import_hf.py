"""`ivx import-hf`: imports a Hugging Face model as a workdir."""

import pathlib
import shutil
from typing import Any

from absl import flags

from ivx.errors import UserError

SUMMARY = "Import Qwen3-VL or InternVideo3 weights from a Hugging Face folder as a workdir."
EXAMPLE = "  ivx import-hf --source=/models/Qwen3-VL-8B-Instruct --workdir=/tmp/ivx/qwen"


def define_flags() -> None:
    flags.DEFINE_string("source", "", "Hugging Face folder to import; it is not changed.")
    flags.DEFINE_string("workdir", "", "Folder to write; must be empty or absent.")


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs

    if not args.source:
        raise UserError("no --source was given; name a folder, as in --source=/models/qwen3-vl-8b")
    return import_model(pathlib.Path(args.source), workdirs.parse(args.workdir))


def import_model(source: pathlib.Path, workdir: pathlib.Path) -> dict:
    """Writes the model of a Hugging Face folder as checkpoint 0 of a workdir.

    Raises:
      UserError: the workdir is not empty, or ivx does not support the model of the folder.
    """
    import jax
    import numpy as np

    from ivx import config as configs
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices
    from ivx.training.checkpoints import checkpoint

    existing = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if existing == {checkpoint.FOLDER}:  # left by an interrupted import
        shutil.rmtree(workdir)
    elif existing:
        raise UserError(f"--workdir={workdir} is not empty; give a folder that is empty or absent")
    config = from_config.hf_folder.config_of(source)
    from_config.data.layout_rule(config)
    devices.configure_devices(cpu_devices=0)
    params = from_config.hf_folder.read_params(source, from_config.model.definition(config))
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
