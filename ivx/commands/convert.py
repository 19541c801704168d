"""`ivx convert`: converts a model with grouped attention to latent attention.

    statistics -> linear algebra -> (stage.match) attention trained to match that of the source

The first two steps run together and write conversion.json. The third is a run of the training loop
and resumes after an interruption.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import ml_collections
from jax.sharding import Mesh

from ivx.commands import config_flag, out_of_memory
from ivx.errors import UserError

SUMMARY = "Convert grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA)."
EXAMPLE = (
    "  ivx convert --config=convert:tiny --workdir=/tmp/ivx/m2la \\\n"
    "      --config.run.start=/tmp/ivx/base --config.data.mixture=/tmp/ivx/data/data.json"
)
RESULT = "conversion.json"
SUMS = "statistics"  # partial sums of the statistics pass; removed when the conversion is stored
# Steps of ivx.conversion.steps.
STEPS = {
    "base": "grouped attention",
    "qk_norm": "QK-norm as a linear map",
    "rope": "rope on one key head",
    "latent": "keys and values in a latent",
}
MATCHED = "matched"


def define_flags() -> None:
    config_flag.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs

    return convert(config_flag.read(args), workdirs.parse(args.workdir))


def convert(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
    """Converts the model that a checked config starts from, or returns the stored result.

    Raises:
      UserError: the config, the base or the workdir cannot be used.
    """
    import jax

    from ivx import config as configs
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices
    from ivx.training.progress import note

    devices.configure_devices(config.mesh.cpu_devices)
    if jax.process_count() > 1:
        raise UserError("ivx convert runs on one host; start it on one")
    # All checks run before the workdir is changed.
    workdirs.check(workdir, config)
    result = _read(workdir)
    if result and _is_complete(result, config, workdir):
        print(f"{workdir} holds this conversion already\n{_table(result)}")
        return {"workdir": str(workdir)} | result
    base, mesh = from_config.conversion.source(config), from_config.mesh.make(config)
    calibration = from_config.conversion.calibration(config, base)
    matching = from_config.stage.attention_matching(config, base) if config.stage.match else None
    params = None
    if changed := workdirs.claim(workdir, config):
        note(f"continues with {', '.join(changed)}")
    if not (result and _has_checkpoint(workdir, config)):
        with out_of_memory.explaining(config, dict(mesh.shape)):
            result, params = _solve(config, workdir, base, calibration, mesh)
        _write(workdir, result)
    if matching is None:
        from ivx.training.checkpoints import checkpoint

        # The checkpoint is written last, so that a workdir with one is complete.
        checkpoint.save_params(workdir, params, configs.snapshot(config))
    else:
        with out_of_memory.explaining(config, dict(mesh.shape)):
            result |= _match(config, workdir, matching, params, mesh)
        _write(workdir, result)
    shutil.rmtree(workdir / SUMS, ignore_errors=True)
    print(_table(result))
    return {"workdir": str(workdir)} | result


def _solve(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    base: Any,
    calibration: Any,
    mesh: Mesh,
) -> tuple[dict, dict]:
    """Runs statistics and algebra; returns the result so far and the converted parameters."""
    from ivx import from_config
    from ivx.conversion import lossless_bfloat16, partial_sums, statistics
    from ivx.parallel import sharding
    from ivx.training.progress import note

    definition = base.definition
    params, step = base.load(sharding.parameter_shardings(definition.abstract, mesh))
    lossless_bfloat16.compact(params)
    note(f"statistics of {base.folder} at step {step}")
    partial = partial_sums.PartialSums(workdir / SUMS)
    sums = statistics.collect(definition, params, calibration.first, mesh, partial)
    note(f"conversion with the statistics of {sums.tokens:,} tokens")
    converted, models, balances = from_config.conversion.solve(
        config, definition, params, sums, calibration, mesh
    )
    note("validation after each step")
    result = {
        "base": str(base.folder),
        "step": step,
        "tokens": sums.tokens,
        "balances": balances,
        "losses": {
            model.name: loss
            for model in models
            if (loss := _loss(config, model.bind, model.weights, mesh)) is not None
        },
        "layers": [dataclasses.asdict(layer) for layer in converted.report],
    }
    return result, lossless_bfloat16.expand(converted.params)


def _match(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    matching: Any,
    params: dict | None,
    mesh: Mesh,
) -> dict:
    """Trains the attention; returns its part of the result."""
    from ivx import from_config

    definition = from_config.model.definition(config)
    trained, run = match(config, workdir, matching, params, mesh)
    losses = _read(workdir)["losses"]
    loss = _loss(config, definition.bind, trained, mesh)
    return {
        "losses": losses | ({MATCHED: loss} if loss is not None else {}),
        MATCHED: {"steps": run.steps, "tokens": run.tokens, "error": run.loss},
    }


def match(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    matching: Any,
    params: dict | None,
    mesh: Mesh,
) -> tuple:
    """Trains the attention, resuming an interrupted run.

    Args:
      config: config of the conversion.
      workdir: folder of checkpoints and metrics.
      matching: the stage, from `ivx.from_config.stage.attention_matching`.
      params: initial parameters; None if a checkpoint holds them.
      mesh: devices.

    Returns:
      The trained parameters and an `ivx.training.loop.RunResult`.
    """
    import jax

    from ivx import config as configs
    from ivx import from_config
    from ivx.parallel import sharding
    from ivx.training import loop
    from ivx.training.checkpoints import checkpoint
    from ivx.training.progress import note

    definition = from_config.model.definition(config)
    note(f"matching attention of {definition.spec.text.depth} layers to that of the source")
    start = (lambda shardings: jax.device_put(params, shardings)) if params is not None else None
    run = loop.train(
        loop.Run(
            workdir=workdir,
            config=configs.snapshot(config),
            model=definition,
            stage=matching,
            optimizer=from_config.training.optimizer(config),
            mesh=mesh,
            length=from_config.training.length(config),
            options=from_config.training.step_options(config),
            watch=from_config.training.watch(config),
            seed=config.run.seed,
            initial_params=start,
        )
    )
    shardings = sharding.parameter_shardings(definition.abstract, mesh)
    trained, _ = checkpoint.load_params(
        workdir, definition.abstract_params, shardings, averaged=config.optim.ema > 0
    )
    return trained, run


def _read(workdir: pathlib.Path) -> dict | None:
    """The stored result of this conversion, or None."""
    path = workdir / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def _write(workdir: pathlib.Path, result: dict) -> None:
    partial = workdir / f".{RESULT}.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(workdir / RESULT)


def _has_checkpoint(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    from ivx import config as configs
    from ivx.training.checkpoints.checkpoint import Checkpoints

    checkpoints = Checkpoints(workdir, 1, configs.snapshot(config))
    exists = checkpoints.latest() is not None
    checkpoints.close()
    return exists


def _is_complete(result: dict, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> bool:
    return MATCHED in result if config.stage.match else _has_checkpoint(workdir, config)


def _loss(
    config: ml_collections.ConfigDict, bind: Callable, weights: Any, mesh: Mesh
) -> float | None:
    """Validation loss of a model; None without validation data."""
    from ivx import from_config
    from ivx.evaluation import held_out

    batches = from_config.data.validation_batches(config)
    return held_out.loss(bind, weights, batches, mesh, config.stage.reduction) if batches else None


def _table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"  {label:28s} validation loss {result['losses'][name]:.4f}"
        for name, label in STEPS.items()
        if name in result["losses"]
    ]
    if MATCHED in result:
        lines.append(
            f"  {'attention matched':28s} validation loss {result['losses'][MATCHED]:.4f}"
            if MATCHED in result["losses"]
            else f"  attention matched to an error of {result[MATCHED]['error']:.4f}"
        )
    lines.append("  layer  query error  key error  rope energy  latent energy  rank")
    lines += [
        f"  {number:5d}  {layer['query_error']:11.4f}  {layer['key_error']:9.4f}"
        f"  {layer['rope_energy']:11.4f}  {layer['latent_energy']:13.4f}  {layer['rank']:4d}"
        for number, layer in enumerate(result["layers"])
    ]
    return "\n".join(lines)
