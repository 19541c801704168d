"""`ivx verify`: compares two models, and names the first layer whose outputs differ."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Set
from typing import Any

from absl import flags

from ivx.commands import memory_check
from ivx.errors import UserError

SUMMARY = "Compare two models: logits, KL, greedy text, and the first layer that differs."
EXAMPLE = """\
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base
  ivx verify --checkpoint=/tmp/ivx/sft --checkpoint=/tmp/ivx/opd --video=clip.mp4 --prompt="Who?"
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base --image=a.jpg --image=b.png
  ivx verify --source=assets/tiny-base --peer=transformers"""
PEERS = ("transformers",)
# Largest difference of a layer's output at a token, relative to its norm. It allows for another
# order of rounding, and for activations rounded to bfloat16.
TOLERANCES = {"float32": 5e-4, "bfloat16": 5e-2}


def define_flags() -> None:
    flags.DEFINE_multi_string(
        "source", [], "Hugging Face folder of a model; give two models in all."
    )
    flags.DEFINE_multi_string(
        "checkpoint", [], "Workdir of a run, whose newest checkpoint is compared."
    )
    flags.DEFINE_string("video", "", "A video file that replaces the built-in prompts.")
    flags.DEFINE_multi_string(
        "image", [], "An image file that replaces the built-in prompts; may be repeated."
    )
    flags.DEFINE_string("prompt", "", "A prompt that replaces the built-in ones.")
    flags.DEFINE_float(
        "tolerance",
        None,
        "Largest relative difference of an output; default:"
        f" {TOLERANCES['float32']:g}, or {TOLERANCES['bfloat16']:g} if a model computes in"
        " bfloat16. Weights that one side stores in bfloat16 are rounded on both.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "dtype", None, list(TOLERANCES), "Dtype of computation; default: that of each model."
    )
    flags.DEFINE_integer("max_new_tokens", 16, "Longest greedy answer, in tokens.", lower_bound=1)
    flags.DEFINE_enum(
        "peer", None, list(PEERS), "Run the first model with this package instead of ivx."
    )
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    paths = [*args.source, *args.checkpoint]
    if args.peer and len(paths) == 1:
        paths *= 2
    if len(paths) != 2:
        raise UserError(
            f"{len(paths)} models were given, expected two; name them with --source=FOLDER and"
            " --checkpoint=WORKDIR"
        )
    from ivx import from_config
    from ivx.evaluation import probes
    from ivx.parallel import devices

    devices.configure_devices(cpu_devices=0)
    stored = from_config.stored_model
    models = [stored.with_dtype(stored.open_model(path), args.dtype) for path in paths]
    for model in models:
        from_config.stored_model.check_has_checkpoint(model)
        memory_check.check(
            from_config.memory_forecast.answering(model), args.ignore_memory_forecast
        )
    if args.video or args.image or args.prompt:
        samples = probes.user_prompt(args.video, args.prompt or "What is shown?", args.image)
    else:
        samples = probes.built_in()
    return verify(*models, samples, args.tolerance, args.max_new_tokens, args.peer)


def verify(
    first: Any,
    second: Any,
    samples: Mapping[str, Any],
    tolerance: float | None = None,
    max_new_tokens: int = 16,
    peer: str | None = None,
) -> dict:
    """Compares two stored models and prints the result.

    The models are loaded one after the other, so memory need hold only one. Both see the prompts in
    the layout of the first.

    Args:
      first: an `ivx.from_config.stored_model.StoredModel`.
      second: another one, or the same.
      samples: prompts of `ivx.evaluation.probes`, by name.
      tolerance: largest relative difference; None takes `default_tolerance`.
      max_new_tokens: the longest greedy answer.
      peer: "transformers" runs the first model with that package.

    Returns:
      The printed result; `ok` is False if the models differ.

    Raises:
      UserError: the vocabularies differ, or a model or video cannot be read.
    """
    from ivx import from_config
    from ivx.evaluation import agreement, probes

    if peer:
        _check_hugging_face(first)
    rules = [from_config.data.layout_rule(model.config) for model in (first, second)]
    layouts = probes.lay_out(samples, rules[0])
    _check_vocabulary(first, second, rules, samples, layouts)
    pixels = probes.read(layouts)
    rounded = _rounded_paths(first, second)
    observe = _observer(rules[0].tokenizer, layouts, pixels, max_new_tokens, rounded)
    outputs = [observe(first, peer), observe(second, None)]
    comparison = agreement.compare(list(samples), *outputs)
    if tolerance is None:
        tolerance = default_tolerance(first, second)
    departure = comparison.departure(tolerance)
    result = {
        "ok": departure is None,
        "models": [f"{first.folder}{f' by {peer}' if peer else ''}", str(second.folder)],
        "tolerance": tolerance,
        "rounded_to_bfloat16": bool(rounded),
        "departure": departure and departure.name,
        "prompts": [_plain(answers) for answers in comparison.prompts],
        "parts": [_plain(part) for part in comparison.parts],
    }
    print(_page(result, comparison, departure))
    sampling = [(rule.frame_rule, rule.budget, rule.image_budget) for rule in rules]
    if sampling[0] != sampling[1]:
        print("note: frame rates or sizes differ; both models saw the input of the first")
    return result


def default_tolerance(first: Any, second: Any) -> float:
    """The bfloat16 tolerance if a model computes in it."""
    computed = {model.definition.spec.dtype for model in (first, second)}
    return TOLERANCES["bfloat16" if "bfloat16" in computed else "float32"]


def _rounded_paths(first: Any, second: Any) -> frozenset[tuple[str, ...]]:
    """The parameters that one model stores in bfloat16 and the other in a wider type.

    Rounding those of both lets the two be compared as exactly as models of one type.
    """
    narrow = [_bfloat16_paths(model) for model in (first, second)]
    return narrow[0] ^ narrow[1]


def _bfloat16_paths(model: Any) -> frozenset[tuple[str, ...]]:
    """The parameters of which every tensor is stored in bfloat16; a workdir has none."""
    from ivx import from_config
    from ivx.hf import names, shards

    if not from_config.hf_folder.is_model(model.folder):
        return frozenset()
    types, weights = shards.stored_types(model.folder), names.weights(model.definition)
    wide = {weight.path for weight in weights if types.get(weight.name) != "BF16"}
    return frozenset(weight.path for weight in weights) - wide


def _round(params: dict, paths: Set[tuple[str, ...]], parents: tuple[str, ...] = ()) -> dict:
    """The parameters, those at `paths` rounded to bfloat16, one after the other in place."""
    import jax

    def rounded(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _round(value, paths, (*parents, key))
        # Unlike a cast there and back, this is not optimized away.
        convert = jax.jit(lambda array: jax.lax.reduce_precision(array, 8, 7), donate_argnums=0)
        return convert(value) if (*parents, key) in paths else value

    return {key: rounded(key, value) for key, value in params.items()}


def _check_hugging_face(model: Any) -> None:
    """Rejects a folder that transformers cannot read."""
    from ivx import from_config

    if not from_config.hf_folder.is_model(model.folder):
        raise UserError(
            f"{model.folder} is not a Hugging Face folder, which transformers needs;"
            " name one with --source (`ivx export-hf` writes one)"
        )


def _check_vocabulary(
    first: Any, second: Any, rules: list, samples: Mapping[str, Any], layouts: list
) -> None:
    """Rejects models whose logits refer to different tokens."""
    from ivx.evaluation import probes

    rows = [model.definition.spec.text.vocab for model in (first, second)]
    other = dataclasses.replace(rules[0], tokenizer=rules[1].tokenizer)
    same = rows[0] == rows[1] and all(
        a.tokens.tolist() == b.tokens.tolist()
        for a, b in zip(layouts, probes.lay_out(samples, other), strict=True)
    )
    if not same:
        raise UserError(
            f"{first.folder} and {second.folder} have different vocabularies ({rows[0]:,} and"
            f" {rows[1]:,} rows); give models with the same tokenizer"
        )


def _observer(
    tokenizer: Any, layouts: list, pixels: list, limit: int, rounded: Set[tuple[str, ...]]
) -> Callable[[Any, str | None], list]:
    """A function from a stored model and its peer, or None, to the model's outputs."""
    import jax

    from ivx.evaluation import activations, peer_activations
    from ivx.hf import peer as peers
    from ivx.parallel import mesh as meshes
    from ivx.parallel import sharding

    mesh, observers = None, {}
    if jax.device_count() > 1:
        mesh = meshes.make_mesh(dict.fromkeys(meshes.AXES, 1) | {"fsdp": -1})

    def ours(model: Any) -> list:
        definition = model.definition
        shardings = sharding.parameter_shardings(definition.abstract, mesh) if mesh else None
        params = _round(model.load(shardings, definition.spec.dtype)[0], rounded)
        # Models of the same spec share one compiled program.
        if definition.spec not in observers:
            observers[definition.spec] = activations.ActivationRecorder(definition, tokenizer, mesh)
        return observers[definition.spec](params, layouts, pixels, limit)

    def theirs(model: Any) -> list:
        loaded = peers.load(model.folder, model.definition.spec.dtype)
        return peer_activations.record(loaded, tokenizer, layouts, pixels, limit)

    return lambda model, peer: theirs(model) if peer else ours(model)


def _plain(record: Any) -> dict:
    """A dataclass as JSON, with None for values that are not finite."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(record).items()
    }


def _page(result: dict, comparison: Any, departure: Any) -> str:
    """The result as text."""
    a, b = result["models"]
    lines = [f"A: {a}", f"B: {b}", "", f"{'prompt':12s} tokens   max |d|  mean |d|  KL / token"]
    for row in comparison.prompts:
        lines.append(
            f"{row.prompt:12s} {row.tokens:6d}  {row.max_abs:8.2e}  {row.mean_abs:8.2e}"
            f"    {row.kl:8.2e}"
        )
    for row in comparison.prompts:
        models = "A and B" if row.texts[0] == row.texts[1] else "A"
        lines.append(f"{row.prompt}: {models}: {row.texts[0]!r}")
        if models == "A":
            lines.append(f"{row.prompt}: B: {row.texts[1]!r}")
    lines += ["", f"{'part':34s} distance   max |d|"]
    for part in comparison.parts:
        mark = "  <- departs here" if part is departure else ""
        lines.append(f"{part.name:34s} {part.distance:8.2e}  {part.max_abs:8.2e}{mark}")
    if len(comparison.parts) == 1:
        lines.append("(depth or width differ: only logits are compared)")
    if result["rounded_to_bfloat16"]:
        lines.append("weights that one model stores in bfloat16 were rounded in both")
    if departure is None:
        rounded = result["rounded_to_bfloat16"] or result["tolerance"] == TOLERANCES["bfloat16"]
        verdict = "are equal within bfloat16" if rounded else "agree"
        lines.append(f"the models {verdict}: no part differs by more than {result['tolerance']:g}")
    else:
        lines.append(
            f"the models differ: from {departure.name} on by more than {result['tolerance']:g},"
            f" most at token {departure.token} of {departure.prompt!r}"
        )
    return "\n".join(lines)
