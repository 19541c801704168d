"""`ivx import-hf`: brings a model of Hugging Face in, as a workdir."""

import pathlib
import shutil

from absl import flags

from ivx.errors import UserError

SUMMARY = "Bring Qwen3-VL or InternVideo3 weights in from a Hugging Face folder, as a workdir."
EXAMPLE = "  ivx import-hf --source=/models/Qwen3-VL-8B-Instruct --workdir=/tmp/ivx/qwen"


def define_flags() -> None:
    flags.DEFINE_string("source", "", "Folder in the format of Hugging Face; it is only read.")
    flags.DEFINE_string("workdir", "", "Folder to write; must be empty or absent.")


def run(given, words: list[str]) -> dict:
    del words
    from ivx import build

    if not given.source:
        raise UserError("no --source was given; name a folder, as in --source=/models/qwen3-vl-8b")
    return import_model(pathlib.Path(given.source), build.workdir(given.workdir))


def import_model(source: pathlib.Path, workdir: pathlib.Path) -> dict:
    """Writes the model of a Hugging Face folder as checkpoint 0 of a workdir.

    Raises:
      UserError: the workdir is taken, or the folder holds no model that ivx knows.
    """
    import jax
    import numpy as np

    from ivx import build
    from ivx import config as configs
    from ivx.build import hugging_face
    from ivx.parallel import start
    from ivx.training import checkpoint

    left = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if left == {checkpoint.FOLDER}:  # of an import that was cut off
        shutil.rmtree(workdir)
    elif left:
        raise UserError(f"--workdir={workdir} is not empty; give a folder that is empty or absent")
    config = hugging_face.config_of(source)
    build.layout_rule(config)
    start.start(cpu_devices=0)
    params = hugging_face.read_params(source, build.model_definition(config))
    count = sum(int(np.prod(array.shape)) for array in jax.tree.leaves(params))
    # config.json comes last: a workdir that has one is whole.
    checkpoint.save_params(workdir, params, configs.snapshot(config))
    configs.claim_workdir(workdir, config)
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
