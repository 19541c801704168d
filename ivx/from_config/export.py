"""Exports a stored model as a Hugging Face folder."""

import math
import pathlib

import jax

from ivx import folder_lock, from_config
from ivx.errors import keeping
from ivx.evaluation import store
from ivx.from_config.stored_model import StoredModel
from ivx.hf import write
from ivx.parallel import devices
from ivx.text import tokenizer
from ivx.training import writers


def export_model(model: StoredModel, out: pathlib.Path, dtype: str, shard_gb: float) -> dict:
    """Writes a stored model as a Hugging Face folder.

    Raises:
      UserError: the folder already exists or is being written, or there is no checkpoint.
    """
    with folder_lock.beside(out), keeping(f"nothing was written to {out}"):
        return _export(model, out, dtype, shard_gb)


def _export(model: StoredModel, out: pathlib.Path, dtype: str, shard_gb: float) -> dict:
    write.check_free(out)
    config, definition = model.config, model.definition
    from_config.data.layout_rule(config)
    devices.configure_devices(config.mesh.cpu_devices)
    # In host memory: a large model does not fit on one accelerator.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    params, step = model.load(jax.tree.map(lambda _: host, definition.abstract_params), dtype)
    data, text = config.data, definition.spec.text
    fresh = "new parameters" if data.mixture else "an import"
    card = {
        "sizes": f"{config.model.preset}, {text.depth} layers of {text.width}",
        "stage": config.stage.name,
        "step": f"{step:,}",
        "data": ", ".join(data.train) if data.mixture else "as imported",
        "started from": pathlib.Path(config.run.start).name or fresh,
        "weights": f"{dtype}, trained in float32",
        "computed in": config.model.dtype,
        "frames": f"{data.fps:g} a second, {data.min_frames} to {data.max_frames}",
        "pixels of a video": f"{data.min_pixels:,} to {data.max_pixels:,}",
        "pixels of an image": f"{data.image_min_pixels:,} to {data.image_max_pixels:,}",
        "vocabulary": f"{text.vocab:,} rows",
        "seed": config.run.seed,
    }
    card |= _history(model.folder)
    write.export(
        out,
        definition,
        params,
        tokenizer.find(data.tokenizer),
        from_config.hf_folder.rules_of(config),
        card,
        dtype,
        shard_gb * 1e9,
    )
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    print(f"wrote {out}: {len(files)} files, {sum(files.values()):,} bytes, step {step}")
    return {"out": str(out), "step": step, "files": files}


def _history(folder: pathlib.Path) -> dict[str, str]:
    """Training time and evaluation scores, if the folder has them."""
    facts, before, milliseconds = {}, 0, 0.0
    for row in writers.read_metrics(folder / writers.METRICS):
        if math.isfinite(row.get("step/ms", math.nan)):
            milliseconds += row["step/ms"] * (row["step"] - before)
            before = row["step"]
    if milliseconds:
        facts["hours of training"] = f"{milliseconds / 3.6e6:.2f}"
    for evaluation in sorted((folder / store.FOLDER).glob("[!.]*/")):
        for row in store.load(evaluation)[1]:
            name = f"{evaluation.name}: {row.family}, {row.format}"
            facts[name] = f"{row.metric} {row.score:.3f} of {row.count}, chance {row.chance:.3f}"
    return facts
