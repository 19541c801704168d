"""`ivx convert`: converts a model with grouped attention to latent attention.

    statistics -> linear algebra -> (stage.match) attention trained to match that of the source

The first two steps run together and write conversion.json. The third is a run of the training loop
and resumes after an interruption.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import ml_collections
from jax.sharding import Mesh

from ivx import folder_lock
from ivx.commands import config_flag, convert_summary, memory_check, out_of_memory
from ivx.errors import UserError, keeping

SUMMARY = "Convert grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA)."
EXAMPLE = (
    "  ivx convert --config=convert:tiny --workdir=/tmp/ivx/m2la \\\n"
    "      --config.run.start=/tmp/ivx/base --config.data.mixture=/tmp/ivx/data/data.json"
)
RESULT = "conversion.json"
SUMS = "statistics"  # partial sums of the statistics pass; removed when the conversion is stored
# Steps of ivx.conversion.steps.

details = config_flag.details


def define_flags() -> None:
    config_flag.define()
    config_flag.define_accept_data_change()
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs

    return convert(
        config_flag.read(args),
        workdirs.parse(args.workdir),
        args.accept_data_change,
        args.ignore_memory_forecast,
    )


def convert(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    accept_data_change: bool = False,
    ignore_memory_forecast: bool = False,
) -> dict:
    """Converts the model that a checked config starts from, or returns the stored result.

    Args:
      config: checked.
      workdir: of the conversion.
      accept_data_change: whether an interrupted matching may go on with other data.
      ignore_memory_forecast: start even if memory does not seem to suffice.

    Raises:
      UserError: the config, the base or the workdir cannot be used.
    """
    kept = f"{workdir} keeps finished parts of the statistics, and checkpoints"
    with folder_lock.inside(workdir), keeping(kept):
        return _convert(config, workdir, accept_data_change, ignore_memory_forecast)


def _convert(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    accept_data_change: bool,
    ignore_memory_forecast: bool,
) -> dict:
    import jax

    from ivx import config as configs
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.conversion import lossless_bfloat16
    from ivx.parallel import devices
    from ivx.progress import note
    from ivx.training.checkpoints import checkpoint

    devices.configure_devices(config.mesh.cpu_devices)
    if jax.process_count() > 1:
        raise UserError("ivx convert runs on one host; start it on one")
    # All checks run before the workdir is changed.
    workdirs.check(workdir, config)
    other_length = from_config.changed_length.explain(workdir, config)
    result = _read(workdir)
    if result and _is_complete(result, config, workdir):
        summary = convert_summary.render(result, config, workdir)
        print(f"{workdir} holds this conversion already\n{summary}")
        return {"workdir": str(workdir)} | result
    base, mesh = from_config.conversion.source(config), from_config.mesh.make(config)
    memory_check.check(
        from_config.memory_forecast.conversion(config, base, mesh),
        ignore_memory_forecast,
        lambda sizes: memory_check.training_knobs(config, mesh.shape, sizes),
    )
    with from_config.recording.recording() as calibrated:
        calibration = from_config.conversion.calibration(config, base)
    with from_config.recording.recording() as sources:
        matching = (
            from_config.stage.attention_matching(config, base) if config.stage.match else None
        )
    params = None
    if changed := workdirs.claim(workdir, config, checkpoint.newest_step(workdir)):
        note(f"continues with {', '.join(changed)}")
    if other_length and matching is not None:
        note(other_length)
    if not (result and _has_checkpoint(workdir, config)):
        with out_of_memory.explaining(config, dict(mesh.shape)):
            # In float32 only now, when statistics and intermediate models are gone.
            result, compact = _solve(config, workdir, base, calibration, mesh, calibrated)
            params = lossless_bfloat16.expand(compact)
            del compact
        _write(workdir, result)
    if matching is None:
        # The checkpoint is written last, so that a workdir with one is complete.
        checkpoint.save_params(workdir, params, configs.snapshot(config))
    else:
        with out_of_memory.explaining(config, dict(mesh.shape)):
            data = {"sources": sources, "accept_data_change": accept_data_change}
            result |= _match(config, workdir, matching, params, mesh, data)
        _write(workdir, result)
    shutil.rmtree(workdir / SUMS, ignore_errors=True)
    print(convert_summary.render(result, config, workdir))
    return {"workdir": str(workdir)} | result


def _solve(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    base: Any,
    calibration: Any,
    mesh: Mesh,
    sources: dict,
) -> tuple[dict, dict]:
    """Runs statistics and algebra; returns the result so far and the converted parameters.

    What the source holds as bfloat16 stays bfloat16.
    """
    from ivx import from_config
    from ivx.conversion import lossless_bfloat16, partial_sums, statistics
    from ivx.parallel import sharding
    from ivx.progress import note

    definition = base.definition
    params, step = base.load(sharding.parameter_shardings(definition.abstract, mesh))
    lossless_bfloat16.compact(params)
    note(f"statistics of {base.folder} at step {step}")
    origin = json.dumps({"step": step, "sources": sources}, sort_keys=True)
    partial = partial_sums.PartialSums(workdir / SUMS, origin=origin, tell=note)
    sums = statistics.collect(
        definition, params, calibration.first, mesh, partial, calibration.rounds
    )
    note(f"conversion with the statistics of {sums.tokens:,} tokens")
    converted, models, balances = from_config.conversion.solve(
        config, definition, params, sums, calibration, mesh
    )
    held_out = from_config.data.validation_batches(config)
    result = {
        "base": str(base.folder),
        "step": step,
        "tokens": sums.tokens,
        "balances": balances,
        "losses": _losses(config, models, held_out, mesh),
        "layers": [dataclasses.asdict(layer) for layer in converted.report],
    }
    return result, converted.params


def _match(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    matching: Any,
    params: dict | None,
    mesh: Mesh,
    data: dict,
) -> dict:
    """Trains the attention; returns its part of the result."""
    from ivx import from_config
    from ivx.conversion import steps

    definition = from_config.model.definition(config)
    trained, run = match(config, workdir, matching, params, mesh, **data)
    held_out = from_config.data.validation_batches(config)
    step = steps.Step(convert_summary.MATCHED, definition.bind, trained)
    return {
        "losses": _read(workdir)["losses"] | _losses(config, [step], held_out, mesh),
        convert_summary.MATCHED: {"steps": run.steps, "tokens": run.tokens, "error": run.loss},
    }


def match(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    matching: Any,
    params: dict | None,
    mesh: Mesh,
    **data: Any,
) -> tuple:
    """Trains the attention, resuming an interrupted run.

    Args:
      config: config of the conversion.
      workdir: folder of checkpoints and metrics.
      matching: the stage, from `ivx.from_config.stage.attention_matching`.
      params: initial parameters; None if a checkpoint holds them.
      mesh: devices.
      **data: fields of an `ivx.training.loop.Run` about its data.

    Returns:
      The trained parameters and an `ivx.training.loop.RunResult`.
    """
    import jax

    from ivx import config as configs
    from ivx import from_config
    from ivx.parallel import sharding
    from ivx.progress import note
    from ivx.training import loop
    from ivx.training.checkpoints import checkpoint

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
            **data,
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
    if config.stage.match:
        return (
            convert_summary.MATCHED in result
            and result[convert_summary.MATCHED]["steps"] == config.run.steps
        )
    return _has_checkpoint(workdir, config)


def _losses(
    config: ml_collections.ConfigDict, models: Iterable[Any], batches: list, mesh: Mesh
) -> dict[str, float]:
    """Validation loss of each model (`ivx.conversion.steps.Step`).

    Models are made on demand, so without batches none is made, and the result is empty.
    """
    from ivx.evaluation import held_out
    from ivx.progress import note

    if not batches:
        return {}
    note("validation after each step")
    return {
        model.name: held_out.loss(model.bind, model.weights, batches, mesh, config.stage.reduction)
        for model in models
    }
