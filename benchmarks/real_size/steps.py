"""The measured commands, in the order in which they use one another's results."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping

from benchmarks.real_size import child, geometry, limits

_TOKENS, _PATCHES, _NEW = 1024, 4096, 8
# Packs of a calibration: at least four tokens for each of the unknowns of a fit.
_CALIBRATION = {"2b": 12, "4b": 16, "8b": 24, "32b": 32}
_DATA = {
    "data.tokenizer": "compact",
    "data.validation": (),
    "data.train": ("synthetic_train",),
    "data.workers": 0,
    "data.batch_packs": 1,
    "data.pack_tokens": _TOKENS,
    "data.pack_patches": _PATCHES,
    "data.slice_block": 256,
    "data.cache_gib": 0.1,
    "model.dtype": "float32",
    "model.remat": "layer",
}
_TRAIN = _DATA | {
    "model.attention": "gqa",
    "run.steps": 1,
    "optim.warmup": 0.0,
    "run.save_every": 10,
    "run.validate_every": 10,
    "watch.watchdog": 0.0,
}
MERGER = {"optim.trainable": ("visual.merger.*",)}
LORA = {"optim.lora_rank": 8, "optim.lora_targets": ("language_model.layers.self_attn.*.kernel",)}


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: for `--only`.
      what: for the page.
      command: of the process.
      needs: steps whose results it reads.
      makes: the folder that it writes; None if it writes nothing large.
      memory: most bytes that it may take.
      flops: useful ones.
      reads: folders that it reads in full.
    """

    name: str
    what: str
    command: list[str]
    needs: tuple[str, ...]
    makes: pathlib.Path | None
    memory: Callable[[], float]
    flops: float
    reads: tuple[pathlib.Path, ...]


def steps(name: str, workdir: pathlib.Path) -> dict[str, Step]:
    """All steps of a geometry by name, in order.

    Args:
      name: of the geometry.
      workdir: folder of everything that they read and write.
    """
    source, imported, data = workdir / "source", workdir / "imported", workdir / "data"
    converted, exported = workdir / "converted", workdir / "exported"
    parameters, image = geometry.parameters(name), workdir / "question.png"
    pass_flops = 2.0 * parameters * _TOKENS
    packs = _CALIBRATION.get(name, 8)
    conversion = _DATA | {"stage.match": False, "stage.calibration_packs": packs}

    def reading() -> float:
        return limits.reading(parameters)

    def trained(changes: Mapping[str, object], kind: str) -> Step:
        config = _TRAIN | changes
        out = workdir / kind
        return Step(
            kind,
            f"one training step, {kind} only, {_TOKENS} tokens",
            _ivx("train", "sft_short", name, out, imported, data, config),
            ("import", "data"),
            out,
            lambda: forecast(name, "sft_short", config, imported),
            # Forward, backward to the activations, and the layers once more.
            3 * pass_flops,
            (imported,),
        )

    listed = [
        Step(
            "data",
            "synthetic videos",
            child.ivx("data", "synthesize", f"--out={data}", "--preset=test"),
            (),
            None,
            reading,
            0.0,
            (),
        ),
        Step(
            "import",
            "import-hf",
            child.ivx("import-hf", f"--source={source}", f"--workdir={imported}"),
            (),
            imported,
            reading,
            0.0,
            (source,),
        ),
        Step(
            "verify",
            "verify, source and import",
            child.ivx(
                "verify", f"--source={source}", f"--checkpoint={imported}", "--max_new_tokens=4"
            ),
            ("import",),
            None,
            reading,
            0.0,
            (source, imported),
        ),
        Step(
            "chat",
            f"chat, one image, {_NEW} tokens",
            child.ivx(
                "chat",
                f"--workdir={source}",
                f"--image={image}",
                "--question=What is shown?",
                f"--max_new_tokens={_NEW}",
            ),
            (),
            None,
            reading,
            2.0 * parameters * (_NEW + 64),
            (source,),
        ),
        trained(MERGER, "merger"),
        trained(LORA, "lora"),
        Step(
            "convert",
            f"convert, {packs} packs of {_TOKENS} tokens, without matching",
            _ivx("convert", "convert", name, converted, imported, data, conversion),
            ("import", "data"),
            converted,
            lambda: forecast(name, "convert", conversion, imported),
            packs * pass_flops,
            (imported,),
        ),
        Step(
            "export",
            "export-hf",
            child.ivx("export-hf", f"--workdir={converted}", f"--out={exported}"),
            ("convert",),
            exported,
            reading,
            0.0,
            (converted,),
        ),
    ]
    return {step.name: step for step in listed}


def forecast(
    name: str, experiment: str, changes: Mapping[str, object], start: pathlib.Path
) -> float:
    """Bytes that a conversion or a training step is expected to take on this machine."""
    from ivx import from_config

    # Imported only now that the trial geometry is among the presets.
    config = importlib.import_module(f"experiments.{experiment}").get_config("8b")
    with config.unlocked():
        config.update_from_flattened_dict(
            {**changes, "model.preset": name, "run.start": str(start)}
        )
    mesh = from_config.mesh.make(config)
    forecasts = from_config.memory_forecast
    if config.stage.name == "convert":
        found = forecasts.conversion(config, from_config.conversion.source(config), mesh)
    else:
        found = forecasts.training(config, mesh)
    return sum(found.host.values()) + limits.READ_FIXED


def _ivx(
    command: str,
    experiment: str,
    name: str,
    workdir: pathlib.Path,
    start: pathlib.Path,
    data: pathlib.Path,
    changes: Mapping[str, object],
) -> list[str]:
    values = {
        **changes,
        "model.preset": name,
        "run.start": start,
        "data.mixture": data / "data.json",
    }
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return child.ivx(command, f"--config={experiment}:8b", f"--workdir={workdir}", *flags)
