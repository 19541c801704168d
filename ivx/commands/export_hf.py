"""`ivx export-hf`: writes a trained model as a folder that plain `transformers` loads."""

import pathlib

from absl import flags

from ivx.errors import UserError

SUMMARY = "Write the newest checkpoint of a run as a Hugging Face folder."
EXAMPLE = "  ivx export-hf --workdir=/tmp/ivx/sft --out=/tmp/ivx/internvideo3-tiny"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string("out", "", "Folder to write; must be empty or absent.")
    flags.DEFINE_enum(
        "dtype", "bfloat16", ["bfloat16", "float32"], "Of the weights; training keeps float32."
    )
    flags.DEFINE_float("shard_gb", 5.0, "Gigabytes a file of weights may have.", lower_bound=1e-6)


def run(given, words: list[str]) -> dict:
    del words
    if not given.out:
        raise UserError("no --out was given; name the folder to write, as in --out=/tmp/ivx/model")
    from ivx import build
    from ivx.build import stored

    model = stored.open_model(build.workdir(given.workdir))
    return export_model(model, pathlib.Path(given.out), given.dtype, given.shard_gb)


def export_model(model, out: pathlib.Path, dtype: str, shard_gb: float) -> dict:
    """Writes a stored model (`ivx.build.stored.StoredModel`) as a Hugging Face folder.

    Raises:
      UserError: the folder is taken, or there is no checkpoint.
    """
    import jax

    from ivx import build
    from ivx.build import hugging_face
    from ivx.hf import write
    from ivx.parallel import start
    from ivx.text import tokenizer

    write.check_free(out)
    config, definition = model.config, model.definition
    build.layout_rule(config)
    start.start(config.mesh.cpu_devices)
    # In host memory: the float32 masters of a large model do not fit on one accelerator.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    params, step = model.load(jax.tree.map(lambda _: host, definition.abstract_params))
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
        hugging_face.rules_of(config),
        card,
        dtype,
        shard_gb * 1e9,
    )
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    print(f"wrote {out}: {len(files)} files, {sum(files.values()):,} bytes, step {step}")
    return {"out": str(out), "step": step, "files": files}


def _history(folder: pathlib.Path) -> dict[str, str]:
    """Hours of training and scores, as far as the folder tells them."""
    from ivx.evaluation import store
    from ivx.training import writers

    facts, before, milliseconds = {}, 0, 0.0
    metrics = folder / writers.METRICS
    for row in writers.read_metrics(metrics) if metrics.is_file() else ():
        if "step/ms" in row:
            milliseconds += row["step/ms"] * (row["step"] - before)
            before = row["step"]
    if milliseconds:
        facts["hours of training"] = f"{milliseconds / 3.6e6:.2f}"
    for place in sorted((folder / store.FOLDER).glob("[!.]*/")):
        for row in store.load(place)[1]:
            name = f"{place.name}: {row.family}, {row.format}"
            facts[name] = f"{row.metric} {row.score:.3f} of {row.count}, chance {row.chance:.3f}"
    return facts
