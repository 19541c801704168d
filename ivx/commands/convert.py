"""`ivx convert`: turns a model with grouped attention into one with latent attention."""

import dataclasses
import json
import pathlib

from ivx.commands import config_flag
from ivx.errors import UserError

SUMMARY = "Convert grouped attention with QK-norm (Qwen3-VL) to latent attention, without training."
EXAMPLE = (
    "  ivx convert --config=experiments/convert.py:tiny --workdir=/tmp/ivx/m2la \\\n"
    "      --config.run.start=/tmp/ivx/base --config.data.mixture=/tmp/ivx/data/data.json"
)
RESULT = "conversion.json"
# As in ivx.conversion.steps.
STEPS = {
    "base": "grouped attention",
    "qk_norm": "QK-norm as an affine map",
    "rope": "rope on one key head",
    "latent": "keys and values in a latent",
}


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
    from ivx.conversion import convert as conversion
    from ivx.conversion import statistics, steps
    from ivx.parallel import rules, start
    from ivx.training import checkpoint
    from ivx.training.progress import note

    start.start(config.mesh.cpu_devices)
    if jax.process_count() > 1:
        raise UserError("ivx convert runs on one host; start it on one")
    # Everything that can be wrong is found before the workdir is touched.
    configs.check_workdir(workdir, config)
    result = _stored(workdir, configs.snapshot(config))
    if result is not None:
        print(f"{workdir} holds this conversion already\n{_table(result)}")
        return {"workdir": str(workdir)} | result
    base, mesh = _base(config), build.mesh(config)
    definition = base.definition
    params, step = base.load(rules.parameter_shardings(definition.abstract, mesh))
    rounds = -(-config.stage.calibration_packs // config.data.batch_packs)
    batches = build.first_batches(config, tuple(config.data.train), rounds)

    note(f"statistics of {base.folder} at step {step}")
    sums = statistics.collect(definition, params, batches, mesh)
    note(f"conversion by the statistics of {sums.tokens:,} tokens")
    balance, kind = config.stage.balance, config.stage.rotation
    fitted = conversion.without_norm(definition, params, sums, config.stage.ridge)
    converted = conversion.to_latent(definition, params, fitted, sums, balance, kind)
    note("validation after each step")
    models = steps.steps(definition, params, fitted, sums, balance, converted.params, kind)
    result = {
        "base": str(base.folder),
        "step": step,
        "tokens": sums.tokens,
        "losses": _losses(config, models, mesh),
        "layers": [dataclasses.asdict(layer) for layer in converted.report],
    }

    configs.claim_workdir(workdir, config)
    # The checkpoint comes last: where there is one the conversion is done.
    (workdir / RESULT).write_text(json.dumps(result, indent=1) + "\n")
    checkpoint.save_params(workdir, converted.params, configs.snapshot(config))
    print(_table(result))
    return {"workdir": str(workdir)} | result


def _stored(workdir: pathlib.Path, config: str) -> dict | None:
    """The result of a conversion that was finished here."""
    from ivx.training.checkpoint import Checkpoints

    path = workdir / RESULT
    if not path.is_file():
        return None
    checkpoints = Checkpoints(workdir, 1, config)
    finished = checkpoints.latest() is not None
    checkpoints.close()
    return json.loads(path.read_text()) if finished else None


def _base(config):
    """The stored model that is to be converted, which computes as the config says.

    Raises:
      UserError: the config converts nothing, or its start is not such a model.
    """
    from ivx import build
    from ivx.build import stored

    if config.stage.name != "convert" or config.model.attention != "m2la":
        raise UserError(
            f"ivx convert cannot run stage {config.stage.name} with attention"
            f" {config.model.attention}; give --config=experiments/convert.py"
        )
    if not config.run.start:
        raise UserError(
            "no --config.run.start was given; name the workdir of the model to convert,"
            " as in --config.run.start=/tmp/ivx/base"
        )
    base = stored.open_model(config.run.start)
    if base.config.model.attention != "gqa":
        raise UserError(
            f"run.start={base.folder} has {base.config.model.attention} attention already;"
            " take a model with gqa"
        )
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = build.model_definition(grouped)
    stored.check_same_architecture(base, definition.spec)
    return dataclasses.replace(base, definition=definition)


def _losses(config, models, mesh) -> dict[str, float]:
    """Validation loss of each model; without batches, none."""
    from ivx import build
    from ivx.evaluation import held_out

    batches = build.validation_batches(config)
    return {
        model.name: held_out.loss(model.bind, model.weights, batches, mesh, config.stage.reduction)
        for model in (models if batches else ())
    }


def _table(result: dict) -> str:
    """The result for reading."""
    lines = [
        f"  {label:28s} validation loss {result['losses'][name]:.4f}"
        for name, label in STEPS.items()
        if name in result["losses"]
    ]
    lines.append("  layer  query error  key error  rope energy  latent energy")
    lines += [
        f"  {number:5d}  {layer['query_error']:11.4f}  {layer['key_error']:9.4f}"
        f"  {layer['rope_energy']:11.4f}  {layer['latent_energy']:13.4f}"
        for number, layer in enumerate(result["layers"])
    ]
    return "\n".join(lines)
