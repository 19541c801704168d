"""`ivx convert`: turns a model with grouped attention into one with latent attention.

    statistics -> linear algebra -> (stage.match) attention trained to say what it said before

The first two are done in one go and noted in conversion.json; the third is a run of the training
loop, which goes on where it was stopped.
"""

import dataclasses
import json
import pathlib
import shutil

from ivx.commands import config_flag, too_large
from ivx.errors import UserError

SUMMARY = "Convert grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA)."
EXAMPLE = (
    "  ivx convert --config=experiments/convert.py:tiny --workdir=/tmp/ivx/m2la \\\n"
    "      --config.run.start=/tmp/ivx/base --config.data.mixture=/tmp/ivx/data/data.json"
)
RESULT = "conversion.json"
SUMS = "statistics"  # of a pass that may be cut off; gone when the conversion is stored
# As in ivx.conversion.steps.
STEPS = {
    "base": "grouped attention",
    "qk_norm": "QK-norm as a linear map",
    "rope": "rope on one key head",
    "latent": "keys and values in a latent",
}
MATCHED = "matched"


def define_flags() -> None:
    config_flag.define()


def run(given, words: list[str]) -> dict:
    del words
    from ivx import build

    return convert(config_flag.read(given), build.workdir(given.workdir))


def convert(config, workdir: pathlib.Path) -> dict:
    """Converts what a checked config starts from; once done, tells what was stored.

    Raises:
      UserError: something of the config, the base or the workdir cannot be used.
    """
    import jax

    from ivx import build
    from ivx import config as configs
    from ivx.build import conversion, stages
    from ivx.parallel import start
    from ivx.training.progress import note

    start.start(config.mesh.cpu_devices)
    if jax.process_count() > 1:
        raise UserError("ivx convert runs on one host; start it on one")
    # Everything that can be wrong is found before the workdir is touched.
    configs.check_workdir(workdir, config)
    result = _read(workdir)
    if result and _is_whole(result, config, workdir):
        print(f"{workdir} holds this conversion already\n{_table(result)}")
        return {"workdir": str(workdir)} | result
    base, mesh = conversion.source(config), build.mesh(config)
    calibration = conversion.calibration(config, base)
    matching = stages.attention_matching(config, base) if config.stage.match else None
    params = None
    if changed := configs.claim_workdir(workdir, config):
        note(f"goes on with {', '.join(changed)}")
    if not (result and _has_checkpoint(workdir, config)):
        with too_large.told(config, dict(mesh.shape)):
            result, params = _solve(config, workdir, base, calibration, mesh)
        _write(workdir, result)
    if matching is None:
        from ivx.training import checkpoint

        # The checkpoint comes last: where there is one the conversion is done.
        checkpoint.save_params(workdir, params, configs.snapshot(config))
    else:
        with too_large.told(config, dict(mesh.shape)):
            result |= _match(config, workdir, matching, params, mesh)
        _write(workdir, result)
    shutil.rmtree(workdir / SUMS, ignore_errors=True)
    print(_table(result))
    return {"workdir": str(workdir)} | result


def _solve(config, workdir: pathlib.Path, base, calibration, mesh) -> tuple[dict, dict]:
    """Statistics and algebra: the result so far, and the parameters with latent attention."""
    from ivx.build import conversion
    from ivx.conversion import halved, partial_sums, statistics
    from ivx.parallel import rules
    from ivx.training.progress import note

    definition = base.definition
    params, step = base.load(rules.parameter_shardings(definition.abstract, mesh))
    halved.halve(params)
    note(f"statistics of {base.folder} at step {step}")
    kept = partial_sums.PartialSums(workdir / SUMS)
    sums = statistics.collect(definition, params, calibration.first, mesh, kept)
    note(f"conversion by the statistics of {sums.tokens:,} tokens")
    converted, models, balances = conversion.solve(
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
    return result, halved.whole(converted.params)


def _match(config, workdir: pathlib.Path, matching, params: dict | None, mesh) -> dict:
    """Trains the attention; what the result says of it."""
    from ivx import build

    definition = build.model_definition(config)
    trained, run = match(config, workdir, matching, params, mesh)
    losses = _read(workdir)["losses"]
    loss = _loss(config, definition.bind, trained, mesh)
    return {
        "losses": losses | ({MATCHED: loss} if loss is not None else {}),
        MATCHED: {"steps": run.steps, "tokens": run.tokens, "error": run.loss},
    }


def match(config, workdir: pathlib.Path, matching, params: dict | None, mesh) -> tuple:
    """Trains the attention, from where an earlier start was stopped; parameters and RunResult.

    Args:
      config: of the conversion.
      workdir: where checkpoints and metrics go.
      matching: the stage, of `ivx.build.stages.attention_matching`.
      params: to begin with; None where a checkpoint holds them.
      mesh: devices.
    """
    import jax

    from ivx import build
    from ivx import config as configs
    from ivx.build import training
    from ivx.parallel import rules
    from ivx.training import checkpoint, loop
    from ivx.training.progress import note

    definition = build.model_definition(config)
    note(f"attention of {definition.spec.text.depth} layers is matched to what it said before")
    run = loop.train(
        workdir,
        configs.snapshot(config),
        definition,
        matching,
        training.optimizer(config),
        mesh,
        training.run_spec(config),
        (lambda shardings: jax.device_put(params, shardings)) if params is not None else None,
        training.watch_spec(config),
    )
    shardings = rules.parameter_shardings(definition.abstract, mesh)
    trained, _ = checkpoint.load_params(
        workdir, definition.abstract_params, shardings, averaged=config.optim.ema > 0
    )
    return trained, run


def _read(workdir: pathlib.Path) -> dict | None:
    """What an earlier start found out."""
    path = workdir / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def _write(workdir: pathlib.Path, result: dict) -> None:
    partial = workdir / f".{RESULT}.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(workdir / RESULT)


def _has_checkpoint(workdir: pathlib.Path, config) -> bool:
    from ivx import config as configs
    from ivx.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(workdir, 1, configs.snapshot(config))
    found = checkpoints.latest() is not None
    checkpoints.close()
    return found


def _is_whole(result: dict, config, workdir: pathlib.Path) -> bool:
    """Whether nothing is left to do."""
    return MATCHED in result if config.stage.match else _has_checkpoint(workdir, config)


def _loss(config, bind, weights, mesh) -> float | None:
    """Validation loss of a model; None where there are no batches."""
    from ivx import build
    from ivx.evaluation import held_out

    batches = build.validation_batches(config)
    return held_out.loss(bind, weights, batches, mesh, config.stage.reduction) if batches else None


def _table(result: dict) -> str:
    """The result for reading."""
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
