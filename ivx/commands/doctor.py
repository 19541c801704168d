"""`ivx doctor`: describes a checkpoint, lists its arrays, and finds values that are not finite.

Without a folder it checks this machine, or all hosts of a run (`ivx.parallel.machine_check`).
"""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from ivx.commands import memory_check
from ivx.errors import UserError
from ivx.parallel import machine_check

SUMMARY = "Check a checkpoint for non-finite values, or this machine if no folder is given."
EXAMPLE = (
    "  ivx doctor /tmp/ivx/sft\n  ivx doctor assets/tiny-base\n  ivx doctor --workdir=/tmp/ivx/sft"
)
TAKES_WORDS = True


def define_flags() -> None:
    flags.DEFINE_string(
        "workdir", "", "Folder in which to test storage, when checking the machine."
    )
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    if not words:
        return machine_check.examine(args.workdir)
    if len(words) != 1:
        raise UserError(
            f"{len(words)} folders were given, expected one; name a run or a Hugging Face folder,"
            " as in: ivx doctor /tmp/ivx/sft"
        )
    from ivx import from_config
    from ivx.parallel import devices

    devices.configure_devices(cpu_devices=0)
    model = from_config.stored_model.open_model(pathlib.Path(words[0]))
    memory_check.check(
        from_config.memory_forecast.reading(model.definition), args.ignore_memory_forecast
    )
    return examine(model)


def examine(model: Any) -> dict:
    """Prints a description of a stored model (`ivx.from_config.stored_model.StoredModel`).

    Returns:
      The description; `ok` is False if a value is not finite.

    Raises:
      UserError: there is no checkpoint, or its arrays do not match its config.
    """
    import jax

    from ivx.evaluation import parameter_summary

    # In host memory: the float32 masters of a large model do not fit on one accelerator.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    params, step = model.load(jax.tree.map(lambda _: host, model.definition.abstract_params))
    facts = _facts(model, step)
    leaves = parameter_summary.summarize(params)
    totals, dtypes = parameter_summary.totals(leaves), _stored_dtypes(model, step)
    result = {
        "ok": totals[-1].broken == 0,
        "facts": facts,
        "totals": [dataclasses.asdict(total) for total in totals],
        "leaves": [dataclasses.asdict(leaf) | {"type": dtypes[leaf.path]} for leaf in leaves],
    }
    print(_page(facts, leaves, dtypes, totals))
    return result


def _facts(model: Any, step: int) -> dict[str, str]:
    from ivx import from_config

    config, spec = model.config, model.definition.spec
    text, vision = spec.text, spec.vision
    is_hugging_face = from_config.hf_folder.is_model(model.folder)
    cache = f"{text.kv_heads} kv heads" if text.attention == "gqa" else f"rank {text.kv_rank}"
    facts = {
        "folder": f"{model.folder}, {'Hugging Face' if is_hugging_face else 'workdir'}",
        "decoder": f"{text.depth} layers of {text.width}, {text.attention}, {text.heads} heads of"
        f" {text.head_dim}, {cache}, vocabulary {text.vocab:,}",
        "tower": f"{vision.depth} blocks of {vision.width}, DeepStack after"
        f" {', '.join(map(str, vision.taps)) or 'none'}",
        "tokenizer": config.data.tokenizer,
        "computes in": spec.dtype,
    }
    if not is_hugging_face:
        facts |= {
            "preset": config.model.preset,
            "stage": config.stage.name,
            "step": f"{step:,} of {config.run.steps:,}" if step else "0 (untrained)",
            "started from": config.run.start or "new parameters, or imported",
        }
    return facts


def _stored_dtypes(model: Any, step: int) -> dict[str, str]:
    """The stored dtype of each array, by path; joined by + where layers differ."""
    from ivx import from_config
    from ivx.hf import names, shards
    from ivx.training.checkpoints import checkpoint

    if not from_config.hf_folder.is_model(model.folder):
        return checkpoint.stored_types(model.folder, step)
    stored, dtypes = shards.stored_types(model.folder), {}
    for weight in names.weights(model.definition):
        dtypes.setdefault(".".join(weight.path), set()).add(stored[weight.name])
    return {path: "+".join(sorted(kinds)) for path, kinds in dtypes.items()}


def _page(facts: dict, leaves: list, dtypes: dict, totals: list) -> str:
    """The result as text."""
    lines = [f"{name:13s} {value}" for name, value in facts.items()]
    width = max(len(leaf.path) for leaf in leaves)
    lines += ["", f"{'array':{width}s} {'shape':>18s} {'type':>9s} {'norm':>10s} {'largest':>10s}"]
    for leaf in leaves:
        shape = " x ".join(map(str, leaf.shape))
        lines.append(
            f"{leaf.path:{width}s} {shape:>18s} {dtypes[leaf.path]:>9s}"
            f" {leaf.norm:10.4g} {leaf.largest:10.4g}{_broken(leaf)}"
        )
    lines += ["", f"{'part':{width}s} {'numbers':>18s} {'':9s} {'norm':>10s} {'largest':>10s}"]
    for total in totals:
        lines.append(
            f"{total.path:{width}s} {total.count:18,d} {'':9s}"
            f" {total.norm:10.4g} {total.largest:10.4g}{_broken(total)}"
        )
    broken = totals[-1].broken
    lines.append(f"{broken:,} numbers are not finite" if broken else "all numbers are finite")
    return "\n".join(lines)


def _broken(leaf: Any) -> str:
    if not leaf.broken:
        return ""
    layers = f" in layers {', '.join(map(str, leaf.layers))}" if leaf.layers else ""
    return f"  {leaf.broken:,} not finite{layers}"
