"""`ivx doctor`: what a checkpoint is, every array of it, and whether all its numbers are finite.

Without a folder: what this machine has, or all hosts of a run (`ivx.commands.machine`).
"""

import dataclasses
import pathlib

from absl import flags

from ivx.commands import machine
from ivx.errors import UserError

SUMMARY = (
    "Show what a checkpoint is and holds: shapes, types, norms, numbers that are not finite;"
    " without a folder, what this machine has, or all hosts of a run."
)
EXAMPLE = (
    "  ivx doctor /tmp/ivx/sft\n  ivx doctor assets/tiny-base\n  ivx doctor --workdir=/tmp/ivx/sft"
)
TAKES_WORDS = True


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Without a folder: where storage is tried.")


def run(given, words: list[str]) -> dict:
    if not words:
        return machine.examine(given.workdir)
    if len(words) != 1:
        raise UserError(
            f"{len(words)} folders were given, expected one; name a run or a Hugging Face folder,"
            " as in: ivx doctor /tmp/ivx/sft"
        )
    from ivx.build import stored
    from ivx.parallel import start

    start.start(cpu_devices=0)
    return examine(stored.open_model(pathlib.Path(words[0])))


def examine(model) -> dict:
    """Prints what a stored model (`ivx.build.stored.StoredModel`) is and holds.

    Returns:
      What was printed; `ok` is False where a number is not finite.

    Raises:
      UserError: there is no checkpoint, or its arrays are not those of its config.
    """
    import jax

    from ivx.evaluation import census

    # In host memory: the float32 masters of a large model do not fit on one accelerator.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    params, step = model.load(jax.tree.map(lambda _: host, model.definition.abstract_params))
    facts = _facts(model, step)
    leaves = census.take(params)
    totals, types = census.totals(leaves), _types(model)
    result = {
        "ok": totals[-1].broken == 0,
        "facts": facts,
        "totals": [dataclasses.asdict(total) for total in totals],
        "leaves": [dataclasses.asdict(leaf) | {"type": types[leaf.path]} for leaf in leaves],
    }
    print(_page(facts, leaves, types, totals))
    return result


def _facts(model, step: int) -> dict[str, str]:
    """What the checkpoint is."""
    from ivx.build import hugging_face

    config, spec = model.config, model.definition.spec
    text, vision, hugging = spec.text, spec.vision, hugging_face.is_model(model.folder)
    cache = f"{text.kv_heads} kv heads" if text.attention == "gqa" else f"rank {text.kv_rank}"
    facts = {
        "folder": f"{model.folder}, {'Hugging Face' if hugging else 'workdir'}",
        "decoder": f"{text.depth} layers of {text.width}, {text.attention}, {text.heads} heads of"
        f" {text.head_dim}, {cache}, vocabulary {text.vocab:,}",
        "tower": f"{vision.depth} blocks of {vision.width}, DeepStack after"
        f" {', '.join(map(str, vision.taps)) or 'none'}",
        "tokenizer": config.data.tokenizer,
        "computes in": spec.dtype,
    }
    if not hugging:
        facts |= {
            "preset": config.model.preset,
            "stage": config.stage.name,
            "step": f"{step:,} of {config.run.steps:,}" if step else "0, no step was trained",
            "started from": config.run.start or "new parameters, or imported",
        }
    return facts


def _types(model) -> dict[str, str]:
    """How the numbers of each array are stored, by its path; several where layers differ."""
    from ivx.build import hugging_face
    from ivx.hf import index, names
    from ivx.training import checkpoint

    if not hugging_face.is_model(model.folder):
        return checkpoint.stored_types(model.folder)
    stored, types = index.stored_types(model.folder), {}
    for weight in names.weights(model.definition):
        types.setdefault(".".join(weight.path), set()).add(stored[weight.name])
    return {path: "+".join(sorted(found)) for path, found in types.items()}


def _page(facts: dict, leaves: list, types: dict, totals: list) -> str:
    """The result for reading."""
    lines = [f"{name:13s} {value}" for name, value in facts.items()]
    wide = max(len(leaf.path) for leaf in leaves)
    lines += ["", f"{'array':{wide}s} {'shape':>18s} {'type':>9s} {'norm':>10s} {'largest':>10s}"]
    for leaf in leaves:
        shape = " x ".join(map(str, leaf.shape))
        lines.append(
            f"{leaf.path:{wide}s} {shape:>18s} {types[leaf.path]:>9s}"
            f" {leaf.norm:10.4g} {leaf.largest:10.4g}{_broken(leaf)}"
        )
    lines += ["", f"{'part':{wide}s} {'numbers':>18s} {'':9s} {'norm':>10s} {'largest':>10s}"]
    for total in totals:
        lines.append(
            f"{total.path:{wide}s} {total.count:18,d} {'':9s}"
            f" {total.norm:10.4g} {total.largest:10.4g}{_broken(total)}"
        )
    broken = totals[-1].broken
    lines.append(f"{broken:,} numbers are not finite" if broken else "all numbers are finite")
    return "\n".join(lines)


def _broken(leaf) -> str:
    if not leaf.broken:
        return ""
    where = f" in layers {', '.join(map(str, leaf.layers))}" if leaf.layers else ""
    return f"  {leaf.broken:,} not finite{where}"
