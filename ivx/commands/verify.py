"""`ivx verify`: whether two models compute the same, and from which layer on they do not."""

import dataclasses
import math

from absl import flags

from ivx.errors import UserError

SUMMARY = "Compare two models: logits, KL, greedy text, and the first layer that departs."
EXAMPLE = """\
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base
  ivx verify --checkpoint=/tmp/ivx/sft --checkpoint=/tmp/ivx/opd --video=clip.mp4 --prompt="Who?"
  ivx verify --source=assets/tiny-base --checkpoint=/tmp/ivx/base --image=a.jpg --image=b.png
  ivx verify --source=assets/tiny-base --peer=transformers"""
PEERS = ("transformers",)
# By how much the output of a layer may be off for a token, as a share of its length: rounding in
# another order, and weights or activations that were rounded to bfloat16 on one side.
TOLERANCES = {"float32": 5e-4, "bfloat16": 5e-2}


def define_flags() -> None:
    flags.DEFINE_multi_string("source", [], "A Hugging Face folder; two models are compared.")
    flags.DEFINE_multi_string("checkpoint", [], "A run, whose newest checkpoint is compared.")
    flags.DEFINE_string("video", "", "A video file instead of the built-in prompts.")
    flags.DEFINE_multi_string("image", [], "An image file likewise; may be given more than once.")
    flags.DEFINE_string("prompt", "", "A prompt instead of the built-in ones.")
    flags.DEFINE_float(
        "tolerance",
        None,
        "Share of its length by which an output may differ; if not given,"
        f" {TOLERANCES['float32']:g}, or {TOLERANCES['bfloat16']:g} where one side is rounded to"
        " bfloat16.",
        lower_bound=0.0,
    )
    flags.DEFINE_enum(
        "dtype", None, list(TOLERANCES), "Of computation; if not given, what each model asks for."
    )
    flags.DEFINE_integer("max_new_tokens", 16, "Tokens of the greedy answers.", lower_bound=1)
    flags.DEFINE_enum(
        "peer", None, list(PEERS), "Run the first model by the code of this package, not by ivx."
    )


def run(given, words: list[str]) -> dict:
    del words
    paths = [*given.source, *given.checkpoint]
    if given.peer and len(paths) == 1:
        paths *= 2
    if len(paths) != 2:
        raise UserError(
            f"{len(paths)} models were given, expected two; name them with --source=FOLDER and"
            " --checkpoint=WORKDIR"
        )
    from ivx.build import stored
    from ivx.evaluation import probes
    from ivx.parallel import start

    start.start(cpu_devices=0)
    models = [_computing(stored.open_model(path), given.dtype) for path in paths]
    for model in models:
        stored.check_whole(model)
    if given.video or given.image or given.prompt:
        samples = probes.of_user(given.video, given.prompt or "What is shown?", given.image)
    else:
        samples = probes.built_in()
    return verify(*models, samples, given.tolerance, given.max_new_tokens, given.peer)


def verify(first, second, samples, tolerance=None, max_new_tokens=16, peer=None) -> dict:
    """Compares two stored models (`ivx.build.stored.StoredModel`) and prints what was found.

    One is loaded after the other, so that there need be room for one alone. Both see the prompts
    as the first lays them out.

    Args:
      first: a model.
      second: another, or the same.
      samples: of `ivx.evaluation.probes`, by name.
      tolerance: as the flag says.
      max_new_tokens: of the greedy answers.
      peer: "transformers" runs the first by that.

    Returns:
      What was printed; `ok` is False where they do not agree.

    Raises:
      UserError: another vocabulary, or a model or video that cannot be read.
    """
    from ivx import build
    from ivx.evaluation import agreement, probes

    if peer:
        _check_folder(first)
    rules = [build.layout_rule(model.config) for model in (first, second)]
    layouts = probes.lay_out(samples, rules[0])
    _check_vocabulary(first, second, rules, samples, layouts)
    pixels = probes.read(layouts)
    observe = _observer(rules[0].tokenizer, layouts, pixels, max_new_tokens)
    seen = [observe(first, peer), observe(second, None)]
    found = agreement.compare(list(samples), *seen)
    if tolerance is None:
        tolerance = default_tolerance(first, second)
    departure = found.departure(tolerance)
    result = {
        "ok": departure is None,
        "models": [f"{first.folder}{f' by {peer}' if peer else ''}", str(second.folder)],
        "tolerance": tolerance,
        "departure": departure and departure.name,
        "prompts": [_plain(answers) for answers in found.prompts],
        "parts": [_plain(part) for part in found.parts],
    }
    print(_page(result, found, departure))
    looks = [(rule.frame_rule, rule.budget, rule.image_budget) for rule in rules]
    if looks[0] != looks[1]:
        print("note: the second samples frames or sizes otherwise; both saw those of the first")
    return result


def default_tolerance(first, second) -> float:
    """That of bfloat16 if one computes in it, or if only one keeps its weights in it."""
    stored = {_stored_dtype(model) for model in (first, second)}
    computed = {model.definition.spec.dtype for model in (first, second)}
    rounded = len(stored) > 1 or "bfloat16" in computed
    return TOLERANCES["bfloat16" if rounded else "float32"]


def _stored_dtype(model) -> str:
    from ivx.build import hugging_face
    from ivx.hf import config

    if not hugging_face.is_model(model.folder):
        return "float32"
    return config.read_spec(model.folder).dtype


def _computing(model, dtype: str | None):
    """The model, computing in `dtype` if there is one."""
    from ivx.models.definition import ModelDefinition

    if dtype is None:
        return model
    spec = dataclasses.replace(model.definition.spec, dtype=dtype)
    return dataclasses.replace(model, definition=ModelDefinition(spec))


def _check_folder(model) -> None:
    """Refuses what transformers cannot read."""
    from ivx.build import hugging_face

    if not hugging_face.is_model(model.folder):
        raise UserError(
            f"{model.folder} is no Hugging Face folder, which alone transformers can run;"
            " name one with --source, as `ivx export-hf` writes it"
        )


def _check_vocabulary(first, second, rules, samples, layouts) -> None:
    """Refuses models whose logits mean different tokens."""
    from ivx.evaluation import probes

    rows = [model.definition.spec.text.vocab for model in (first, second)]
    other = dataclasses.replace(rules[0], tokenizer=rules[1].tokenizer)
    same = rows[0] == rows[1] and all(
        one.tokens.tolist() == two.tokens.tolist()
        for one, two in zip(layouts, probes.lay_out(samples, other), strict=True)
    )
    if not same:
        raise UserError(
            f"{first.folder} and {second.folder} have different vocabularies ({rows[0]:,} and"
            f" {rows[1]:,} rows), so that their logits cannot be compared; give models with the"
            " same tokenizer"
        )


def _observer(tokenizer, layouts, pixels, limit: int):
    """From a stored model, and the peer that is to run it or None, to what it gives."""
    import jax

    from ivx.evaluation import observe, observe_peer
    from ivx.hf import peer as peers
    from ivx.parallel import mesh as meshes
    from ivx.parallel import rules

    mesh, observers = None, {}
    if jax.device_count() > 1:
        mesh = meshes.make_mesh(dict.fromkeys(meshes.AXES, 1) | {"fsdp": -1})

    def ours(model) -> list:
        definition = model.definition
        shardings = rules.parameter_shardings(definition.abstract, mesh) if mesh else None
        params, _ = model.load(shardings)
        # Models of one size are compiled once.
        if definition.spec not in observers:
            observers[definition.spec] = observe.Observer(definition, tokenizer, mesh)
        return observers[definition.spec](params, layouts, pixels, limit)

    def theirs(model) -> list:
        loaded = peers.load(model.folder, model.definition.spec.dtype)
        return observe_peer.observe(loaded, tokenizer, layouts, pixels, limit)

    return lambda model, peer: theirs(model) if peer else ours(model)


def _plain(record) -> dict:
    """A record as JSON can hold it: None for what is not finite."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(record).items()
    }


def _page(result: dict, found, departure) -> str:
    """The result for reading."""
    a, b = result["models"]
    lines = [f"A: {a}", f"B: {b}", "", f"{'prompt':12s} tokens   max |d|  mean |d|  KL a token"]
    for one in found.prompts:
        lines.append(
            f"{one.prompt:12s} {one.tokens:6d}  {one.max_abs:8.2e}  {one.mean_abs:8.2e}"
            f"    {one.kl:8.2e}"
        )
    for one in found.prompts:
        same = "A and B" if one.texts[0] == one.texts[1] else "A"
        lines.append(f"{one.prompt}: {same}: {one.texts[0]!r}")
        if same == "A":
            lines.append(f"{one.prompt}: B: {one.texts[1]!r}")
    lines += ["", f"{'part':34s} distance   max |d|"]
    for part in found.parts:
        mark = "  <- departs here" if part is departure else ""
        lines.append(f"{part.name:34s} {part.distance:8.2e}  {part.max_abs:8.2e}{mark}")
    if len(found.parts) == 1:
        lines.append("(depth or width differ, so that only logits are compared)")
    if departure is None:
        lines.append(f"they agree: no part differs by more than {result['tolerance']:g}")
    else:
        lines.append(
            f"they differ: from {departure.name} on by more than {result['tolerance']:g}, most in"
            f" token {departure.token} of {departure.prompt!r}"
        )
    return "\n".join(lines)
