"""The result of `ivx convert` as text: losses, layers, and the command that comes next."""

import pathlib
import shlex

import ml_collections

from ivx.commands import experiments

STEPS = {
    "base": "grouped attention",
    "qk_norm": "QK-norm as a linear map",
    "rope": "rope on one key head",
    "latent": "keys and values in a latent",
}
MATCHED = "matched"
# Keys that the stage after a conversion must share with it.
_SIZES = (
    ("model", "preset"),
    ("model", "attention"),
    ("model", "kv_rank"),
    ("data", "tokenizer"),
)


def next_command(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """How to train the converted model: continued pretraining, with the sizes of this model."""
    module = experiments.module_of(experiments.path_of("cpt"))
    preset = config.model.preset if config.model.preset in module.PRESETS else "8b"
    expected = module.get_config(preset)
    changed = {
        f"{section}.{key}": config[section][key]
        for section, key in _SIZES
        if config[section][key] != expected[section][key]
    }
    paths = {"run.start": workdir, "data.mixture": config.data.mixture}
    values = [f"--config.{key}={value}" for key, value in (changed | paths).items()]
    words = [f"--config=cpt:{preset}", f"--workdir={workdir}-cpt", *values]
    return shlex.join(["ivx", "train", *words])


def render(result: dict, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """The result as text, with what comes next."""
    return (
        f"{_table(result)}\n"
        f"converted model: {workdir}\n"
        f"to recover what it lost: {next_command(config, workdir)}"
    )


def _table(result: dict) -> str:
    """Losses and layers as text."""
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
