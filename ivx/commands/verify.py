"""`ivx verify`: compares two models, and names the first layer whose outputs differ."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from ivx.errors import UserError

SUMMARY = "Compare two models: logits, KL, greedy text, and the first layer that differs."
EXAMPLE = """\
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base
  ivx verify --checkpoint=/tmp/ivx/sft --checkpoint=/tmp/ivx/opd --video=clip.mp4 --prompt="Who?"
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base --image=a.jpg --image=b.png
  ivx verify --source=assets/tiny-base --peer=transformers"""
PEERS = ("transformers",)
# Largest difference of a layer's output at a token, relative to its norm. It allows for another
# order of rounding, and for weights or activations rounded to bfloat16 on one side.
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
        f" {TOLERANCES['float32']:g}, or {TOLERANCES['bfloat16']:g} if one side is rounded to"
        " bfloat16.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "dtype", None, list(TOLERANCES), "Dtype of computation; default: that of each model."
    )
    flags.DEFINE_integer("max_new_tokens", 16, "Longest greedy answer, in tokens.", lower_bound=1)
    flags.DEFINE_enum(
        "peer", None, list(PEERS), "Run the first model with this package instead of ivx."
    )


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
    models = [_with_dtype(from_config.stored_model.open_model(path), args.dtype) for path in paths]
    for model in models:
        from_config.stored_model.check_has_checkpoint(model)
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
    observe = _observer(rules[0].tokenizer, layouts, pixels, max_new_tokens)
    outputs = [observe(first, peer), observe(second, None)]
    comparison = agreement.compare(list(samples), *outputs)
    if tolerance is None:
        tolerance = default_tolerance(first, second)
    departure = comparison.departure(tolerance)
    result = {
        "ok": departure is None,
        "models": [f"{first.folder}{f' by {peer}' if peer else ''}", str(second.folder)],
        "tolerance": tolerance,
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
    """The bfloat16 tolerance if a model computes in it, or if only one stores its weights in it."""
    stored = {_stored_dtype(model) for model in (first, second)}
    computed = {model.definition.spec.dtype for model in (first, second)}
    rounded = len(stored) > 1 or "bfloat16" in computed
    return TOLERANCES["bfloat16" if rounded else "float32"]


def _stored_dtype(model: Any) -> str:
    from ivx import from_config
    from ivx.hf import config

    if not from_config.hf_folder.is_model(model.folder):
        return "float32"
    return config.read_spec(model.folder).dtype


def _with_dtype(model: Any, dtype: str | None) -> Any:
    """The model with another dtype of computation; None keeps its own."""
    from ivx.models.definition import ModelDefinition

    if dtype is None:
        return model
    spec = dataclasses.replace(model.definition.spec, dtype=dtype)
    return dataclasses.replace(model, definition=ModelDefinition(spec))


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
    tokenizer: Any, layouts: list, pixels: list, limit: int
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
        params, _ = model.load(shardings)
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
    if departure is None:
        lines.append(f"the models agree: no part differs by more than {result['tolerance']:g}")
    else:
        lines.append(
            f"the models differ: from {departure.name} on by more than {result['tolerance']:g},"
            f" most at token {departure.token} of {departure.prompt!r}"
        )
    return "\n".join(lines)
