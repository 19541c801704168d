"""`python -m benchmarks conversion`: the loss of each conversion method at several cache sizes.

The source runs one calibration pass; its sums serve every method at every rank. Each result is
compared with the source on held-out packs: KL, loss, and the error of each layer's attention after
each approximation. Methods that match attention, as `ivx convert` does by default, take the rate
and the steps of the experiment, and are compared afterwards. At `HEALED` of the cache a model also
answers questions and trains on the calibration data until its loss is within 1% of the source's.

Rows are written one by one, so an interrupted benchmark continues:

    OUT/data            synthetic data, unless --mixture names a data set
    OUT/matched         runs that match attention, one per method and size
    OUT/rows.jsonl      one row per method and size
    OUT/report.md       the tables
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags

from benchmarks.conversion import conversion_page, healing
from ivx.commands import config_flag, experiments
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition

SHARES = (1.0, 0.75, 0.5, 0.375)
HEALED = 0.5
# TransMLA, a pipeline for models without QK-norm, with the norm folded into the weights.
TRANSMLA = {
    "norm": "fold",
    "rotation": "real",
    "mean_rotation": False,
    "weighting": "balanced",
    "balances": False,
    "mean_rank": False,
    "sequential": False,
    "fit_output": False,
    "match": False,
}
_OUTPUT = {
    "norm": "affine",
    "rotation": "weighted",
    "mean_rotation": True,
    "weighting": "output",
    "balances": True,
}
_SEQUENTIAL = _OUTPUT | {"sequential": True, "fit_output": True}
# Method -> attention and changes of TRANSMLA. Up to "mean turn" each extends the one before.
METHODS = {
    "norms dropped": ("m2la", {"norm": "drop"}),
    "TransMLA style": ("m2la", {}),
    "affine norm": ("m2la", {"norm": "affine"}),
    "complex rotation": ("m2la", {"norm": "affine", "rotation": "complex"}),
    "weighted rotation": ("m2la", {"norm": "affine", "rotation": "weighted"}),
    "mean turn": ("m2la", {"norm": "affine", "rotation": "weighted", "mean_rotation": True}),
    "output weighting": ("m2la", _OUTPUT),
    "ranks by layer": ("m2la", _OUTPUT | {"mean_rank": True}),
    "sequential polished": ("m2la", _SEQUENTIAL),
    "output weighting and matched": ("m2la", _OUTPUT | {"match": True}),
    "sequential polished and matched": ("m2la", _SEQUENTIAL | {"match": True}),
    "exact norm": ("m2la_exact", {"weighting": "output", "balances": True}),
}
BALANCES = (0.25, 0.5, 1.0, 2.0, 4.0)
# With a rank budget a layer may get this many times the mean rank.
WIDEST = 1.5

SUMMARY = "The loss of each conversion method at several cache sizes."
EXAMPLE = "  python -m benchmarks conversion --out=/tmp/ivx/conversion"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes:
      config: of the experiment.
      base: the source model.
      params: of the source.
      sums: calibration statistics.
      calibration: the calibration batches.
      held: held-out batches.
      mesh: of devices.
      questions: count of questions to answer.
      steps: limit of healing.
      out: folder of the result.
    """

    config: ml_collections.ConfigDict
    base: Any
    params: dict
    sums: Any
    calibration: Any
    held: list
    mesh: jax.sharding.Mesh
    questions: int
    steps: int
    out: pathlib.Path


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("base", "assets/tiny-base", "The model to convert.")
    flags.DEFINE_string(
        "experiment", "experiments/convert.py:tiny", "Conversion experiment and preset."
    )
    flags.DEFINE_string("mixture", "", "Data mixture; by default synthetic data.")
    flags.DEFINE_string("out", "/tmp/ivx/conversion", "Output folder.")
    flags.DEFINE_list("methods", [], "Methods; all by default.")
    flags.DEFINE_list("shares", [], "Cache sizes as fractions; all by default.")
    flags.DEFINE_integer(
        "packs", 0, "Packs for calibration and for comparison; 0 for those of the experiment."
    )
    flags.DEFINE_integer("questions", 120, "Questions to answer; 0 for none.", lower_bound=0)
    flags.DEFINE_integer("heal", 100, "Maximum steps of healing.", lower_bound=0)


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Computes the missing rows and writes the tables."""
    del words
    out = pathlib.Path(flag_values.out)
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    source = ("source", 1.0)
    done = {(row["method"], row["share"]) for row in rows}
    names = _chosen(flag_values.methods, {name: name for name in METHODS}, "methods")
    shares = _chosen(flag_values.shares, {f"{share:g}": share for share in SHARES}, "shares")
    jobs = [source] + [(name, share) for share in shares for name in names]
    setting = _setting(flag_values, out)
    for name, share in sorted(jobs, key=lambda job: (job != source, job[1] != HEALED)):
        if (name, share) in done:
            continue
        row = _source_row(setting) if name == "source" else _row(setting, name, share, rows)
        rows.append(row)
        with path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(conversion_page.line(row), flush=True)
    page = conversion_page.page(rows, flag_values.base, setting.sums.tokens)
    (out / "report.md").write_text(page)
    print(f"{page}\nwritten to {out / 'report.md'}")
    return {"rows": rows}


def _chosen(names: Sequence[str], known: Mapping[str, Any], flag: str) -> list:
    """The values of the named entries, or of all, in the order of `known`."""
    for name in names:
        if name not in known:
            raise UserError(f"--{flag}: unknown name {name!r}; choose from {', '.join(known)}")
    return [value for name, value in known.items() if not names or name in names]


def rank_of(text: Any, share: float) -> int:
    """R such that a latent cache of width R + P is this fraction of that of grouped attention.

    Args:
      text: sizes of the decoder.
      share: fraction of the cache.
    """
    return round(share * 2 * text.kv_heads * text.head_dim) - text.head_dim


def _setting(flag_values: Any, out: pathlib.Path) -> Setting:
    from data_pipelines.synthetic import presets, write
    from ivx import from_config
    from ivx.conversion import partial_sums, statistics
    from ivx.parallel import devices, sharding
    from ivx.progress import note

    experiment, _, preset = flag_values.experiment.partition(":")
    config = experiments.load(pathlib.Path(experiment), preset or "tiny")
    config.data.mixture = flag_values.mixture or str((out / "data" / "data.json").resolve())
    config.data.train = ("synthetic_train",)
    config.run.start = flag_values.base
    if flag_values.packs:
        config.stage.calibration_packs = config.run.validate_packs = flag_values.packs
    devices.configure_devices(config.mesh.cpu_devices)
    if not pathlib.Path(config.data.mixture).is_file():
        write.synthesize(out / "data", presets.PRESETS["conversion"], config.run.seed, workers=2)
    out.mkdir(parents=True, exist_ok=True)
    config.stage.balances = BALANCES
    config_flag.check(config)
    mesh, base = from_config.mesh.make(config), from_config.conversion.source(config)
    params, _ = base.load(sharding.parameter_shardings(base.definition.abstract, mesh))
    calibration = from_config.conversion.calibration(config, base)
    note("statistics")
    kept = partial_sums.PartialSums(out / "statistics")
    sums = statistics.collect(base.definition, params, calibration.first, mesh, kept)
    # Read once for all rows.
    first, more = list(calibration.first(0)), calibration.more()
    calibration = from_config.conversion.Calibration(
        len(first), lambda start: iter(first[start:]), lambda: more
    )
    held = from_config.data.validation_batches(config)
    return Setting(
        config,
        base,
        params,
        sums,
        calibration,
        held,
        mesh,
        flag_values.questions,
        flag_values.heal,
        out,
    )


def _source_row(setting: Setting) -> dict:
    """The row of the source model."""
    definition = setting.base.definition
    row = {"method": "source", "share": 1.0, "rank": 0}
    row |= _compared(setting, (definition.bind, setting.params))
    return row | {"accuracy": _accuracy(setting, definition, setting.params), "steps": 0}


def _row(setting: Setting, name: str, share: float, rows: list[dict]) -> dict:
    """The row of one method at one cache size."""
    from ivx import from_config

    attention, changes = METHODS[name]
    changes = TRANSMLA | changes
    config = setting.config.copy_and_resolve_references()
    rank = rank_of(setting.base.definition.spec.text, share)
    budget = changes["mean_rank"]
    text = setting.base.definition.spec.text
    full_rank = (2 * text.kv_heads - 1) * text.head_dim
    config.model.update(
        attention=attention, kv_rank=min(full_rank, round(WIDEST * rank)) if budget else rank
    )
    config.stage.update(
        changes
        | {
            "balances": BALANCES if changes["balances"] else (),
            "mean_rank": rank if budget else 0,
        }
    )
    base = from_config.conversion.source(config)
    result, steps, balances = from_config.conversion.solve(
        config, base.definition, setting.params, setting.sums, setting.calibration, setting.mesh
    )
    row = {"method": name, "share": share, "rank": rank}
    for step in steps:
        # Intermediate models are the same for all cache sizes.
        if step.name == "latent" or (share == HEALED and step.name != "base"):
            compared = _compared(setting, (step.bind, step.weights))
            row[f"layers_{step.name}"] = compared.pop("layers")
            row |= compared
    row["balance"] = min(balances, key=balances.get) if balances else None
    row["ranks"] = [layer.rank for layer in result.report]
    definition, params = from_config.model.definition(config), result.params
    if config.stage.match:
        params = _matched(setting, config, params, f"{name} {share:g}")
        compared = _compared(setting, (definition.bind, params))
        row["layers_matched"] = compared.pop("layers")
        row |= compared
    if share == HEALED:
        row["accuracy"] = _accuracy(setting, definition, params)
        [source] = [row for row in rows if row["method"] == "source"]
        goal = 1.01 * source["loss"]
        heals = setting.steps > 0
        row["healing"] = healing.heal(setting, definition, params, goal) if heals else []
        # An empty string: healing was not requested.
        row["steps"] = healing.reached(row["healing"], goal) if heals else ""
    return row


def _matched(setting: Setting, config: ml_collections.ConfigDict, params: Any, name: str) -> Any:
    """Parameters after matching the attention of every layer to that of the source."""
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.commands import convert

    folder = setting.out / "matched" / name.replace(" ", "_")
    workdirs.claim(folder, config)
    matching = from_config.stage.attention_matching(config, setting.base)
    return convert.match(config, folder, matching, params, setting.mesh)[0]


def _compared(setting: Setting, other: tuple) -> dict:
    """Compares a model, `bind` and parameters, with the source on held-out packs."""
    from ivx.evaluation import divergence

    source = setting.base.definition.bind, setting.params
    return divergence.divergence(source, other, setting.held, setting.mesh)._asdict()


def _accuracy(setting: Setting, definition: ModelDefinition, params: Any) -> float | None:
    """Fraction of held-out questions answered correctly, before any training."""
    from ivx import from_config
    from ivx.evaluation import runner, scoring
    from ivx.sampling.sampler import Sampler

    if not setting.questions:
        return None
    [(_, questions)] = from_config.data.samples(setting.config, ("synthetic_test",))
    end = from_config.model.load_tokenizer(setting.config).end_of_turn
    rule = from_config.data.layout_rule(setting.config)
    # Evenly spaced, so that all families of questions occur.
    chosen = questions[:: max(1, len(questions) // setting.questions)][: setting.questions]
    # In one batch, since every batch size is compiled separately.
    sampler = Sampler(definition, params, end, setting.mesh)
    outcome = runner.run(sampler, rule, chosen, 24, len(chosen), None)
    scores = [scoring.score(prediction) for prediction in outcome.predictions]
    return sum(scores) / len(scores)
