"""`ivx bench conversion`: what each way of converting a model loses, at several sizes of the cache.

One calibration pass of the source; from its sums every method at every rank. Each is compared with
the source on held-out packs: KL, loss, the error of each layer's attention after each of the
approximations. Where the attention of the layers is then matched, as `ivx convert` does by default,
that is done by the experiment's rate and steps, and then compared. At `HEALED` of the
cache a model is also asked questions, and trained on the calibration data set until its loss is
within 1% of the source's.

Rows are written as they are found, so that a bench that is started again goes on:

    OUT/data            synthetic data, if no mixture is given
    OUT/matched         runs that match attention, one a method and size
    OUT/rows.jsonl      a row a method and size
    OUT/report.md       the tables
"""

import dataclasses
import json
import pathlib

from absl import flags

from ivx.commands import config_flag
from ivx.commands.bench import conversion_healing, conversion_page
from ivx.errors import UserError

SHARES = (1.0, 0.75, 0.5, 0.375)
HEALED = 0.5
# What a pipeline made for models without QK-norm does, with the norm folded into its weights.
TRANSMLA = {
    "norm": "fold",
    "rotation": "real",
    "turn": "none",
    "weighting": "balanced",
    "balances": False,
    "mean_rank": False,
    "sequential": False,
    "polish": False,
    "match": False,
}
_OUTPUT = {
    "norm": "affine",
    "rotation": "weighted",
    "turn": "mean",
    "weighting": "output",
    "balances": True,
}
_SEQUENTIAL = _OUTPUT | {"sequential": True, "polish": True}
# Name -> attention and what it does otherwise; to "mean turn", each row adds to the one before.
METHODS = {
    "norms dropped": ("m2la", {"norm": "drop"}),
    "TransMLA style": ("m2la", {}),
    "affine norm": ("m2la", {"norm": "affine"}),
    "complex rotation": ("m2la", {"norm": "affine", "rotation": "complex"}),
    "weighted rotation": ("m2la", {"norm": "affine", "rotation": "weighted"}),
    "mean turn": ("m2la", {"norm": "affine", "rotation": "weighted", "turn": "mean"}),
    "output weighting": ("m2la", _OUTPUT),
    "ranks by layer": ("m2la", _OUTPUT | {"mean_rank": True}),
    "sequential polished": ("m2la", _SEQUENTIAL),
    "output weighting and matched": ("m2la", _OUTPUT | {"match": True}),
    "sequential polished and matched": ("m2la", _SEQUENTIAL | {"match": True}),
    "exact norm": ("m2la_exact", {"weighting": "output", "balances": True}),
}
BALANCES = (0.25, 0.5, 1.0, 2.0, 4.0)
# A method with a budget may give a layer this many times its mean.
WIDEST = 1.5


@dataclasses.dataclass(frozen=True)
class Setting:
    """Everything that is the same for all rows."""

    config: object
    base: object
    params: dict
    sums: object
    calibration: object
    held: list
    mesh: object
    questions: int
    steps: int
    out: pathlib.Path


def define_flags() -> None:
    flags.DEFINE_string("base", "assets/tiny-base", "bench conversion: the model to convert.")
    flags.DEFINE_string("experiment", "experiments/convert.py:tiny", "bench conversion: how.")
    flags.DEFINE_string("mixture", "", "bench conversion: data; else synthetic ones are written.")
    flags.DEFINE_string("out", "/tmp/ivx/conversion", "bench conversion: folder of the result.")
    flags.DEFINE_list("methods", [], "bench conversion: names of rows; all if not given.")
    flags.DEFINE_list("shares", [], "bench conversion: sizes of the cache; all if not given.")
    flags.DEFINE_integer(
        "packs", 0, "bench conversion: to calibrate on and to compare on; 0: as the experiment."
    )
    flags.DEFINE_integer("questions", 120, "bench conversion: to ask; 0: none.", lower_bound=0)
    flags.DEFINE_integer("heal", 100, "bench conversion: most steps of healing.", lower_bound=0)


def run(given) -> dict:
    out = pathlib.Path(given.out)
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    source = ("source", 1.0)
    done = {(row["method"], row["share"]) for row in rows}
    names = _chosen(given.methods, {name: name for name in METHODS}, "methods")
    shares = _chosen(given.shares, {f"{share:g}": share for share in SHARES}, "shares")
    jobs = [source] + [(name, share) for share in shares for name in names]
    setting = _setting(given, out)
    for name, share in sorted(jobs, key=lambda job: (job != source, job[1] != HEALED)):
        if (name, share) in done:
            continue
        row = _source_row(setting) if name == "source" else _row(setting, name, share, rows)
        rows.append(row)
        with path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(conversion_page.line(row), flush=True)
    page = conversion_page.page(rows, given.base, setting.sums.tokens)
    (out / "report.md").write_text(page)
    print(f"{page}\nwritten to {out / 'report.md'}")
    return {"rows": rows}


def _chosen(asked: list[str], known: dict[str, object], flag: str) -> list:
    """What is asked for, in the order in which it is known; all, if nothing is."""
    for name in asked:
        if name not in known:
            raise UserError(f"--{flag}: there is no {name!r}; there are {', '.join(known)}")
    return [one for name, one in known.items() if not asked or name in asked]


def rank_of(text, share: float) -> int:
    """R with which R + P numbers are this share of what grouped attention caches."""
    return round(share * 2 * text.kv_heads * text.head_dim) - text.head_dim


def _setting(given, out: pathlib.Path) -> Setting:
    from data_pipelines.synthetic import presets, write
    from ivx import build
    from ivx.build import conversion
    from ivx.conversion import partial_sums, statistics
    from ivx.parallel import rules, start
    from ivx.training.progress import note

    experiment, _, preset = given.experiment.partition(":")
    config = config_flag.load(pathlib.Path(experiment), preset or "tiny")
    config.data.mixture = given.mixture or str((out / "data" / "data.json").resolve())
    config.data.train = ("synthetic_train",)
    config.run.start = given.base
    if given.packs:
        config.stage.calibration_packs = config.run.validate_packs = given.packs
    start.start(config.mesh.cpu_devices)
    if not pathlib.Path(config.data.mixture).is_file():
        write.synthesize(out / "data", presets.PRESETS["conversion"], config.run.seed, workers=2)
    out.mkdir(parents=True, exist_ok=True)
    config.stage.balances = BALANCES
    config_flag.check(config)
    mesh, base = build.mesh(config), conversion.source(config)
    params, _ = base.load(rules.parameter_shardings(base.definition.abstract, mesh))
    calibration = conversion.calibration(config, base)
    note("statistics")
    kept = partial_sums.PartialSums(out / "statistics")
    sums = statistics.collect(base.definition, params, calibration.first, mesh, kept)
    # Read once for all rows.
    first, found = list(calibration.first(0)), calibration.more()
    calibration = conversion.Calibration(lambda start: iter(first[start:]), lambda: found)
    held = build.validation_batches(config)
    return Setting(
        config, base, params, sums, calibration, held, mesh, given.questions, given.heal, out
    )


def _source_row(setting: Setting) -> dict:
    """The model as it was, in the columns of the others."""
    definition = setting.base.definition
    row = {"method": "source", "share": 1.0, "rank": 0}
    row |= _compared(setting, (definition.bind, setting.params))
    return row | {"accuracy": _accuracy(setting, definition, setting.params), "steps": 0}


def _row(setting: Setting, name: str, share: float, rows: list[dict]) -> dict:
    """One method at one size."""
    from ivx import build
    from ivx.build import conversion

    attention, changes = METHODS[name]
    changes = TRANSMLA | changes
    config = setting.config.copy_and_resolve_references()
    rank = rank_of(setting.base.definition.spec.text, share)
    budget = changes["mean_rank"]
    text = setting.base.definition.spec.text
    whole = (2 * text.kv_heads - 1) * text.head_dim
    config.model.update(
        attention=attention, kv_rank=min(whole, round(WIDEST * rank)) if budget else rank
    )
    config.stage.update(
        changes
        | {
            "balances": BALANCES if changes["balances"] else (),
            "mean_rank": rank if budget else 0,
        }
    )
    base = conversion.source(config)
    result, steps, balances = conversion.solve(
        config, base.definition, setting.params, setting.sums, setting.calibration, setting.mesh
    )
    row = {"method": name, "share": share, "rank": rank}
    for step in steps:
        # The models between are the same for all sizes of the cache.
        if step.name == "latent" or (share == HEALED and step.name != "base"):
            compared = _compared(setting, (step.bind, step.weights))
            row[f"layers_{step.name}"] = compared.pop("layers")
            row |= compared
    row["balance"] = min(balances, key=balances.get) if balances else None
    row["ranks"] = [layer.rank for layer in result.report]
    definition, params = build.model_definition(config), result.params
    if config.stage.match:
        params = _matched(setting, config, params, f"{name} {share:g}")
        compared = _compared(setting, (definition.bind, params))
        row["layers_matched"] = compared.pop("layers")
        row |= compared
    if share == HEALED:
        row["accuracy"] = _accuracy(setting, definition, params)
        [source] = [row for row in rows if row["method"] == "source"]
        goal = 1.01 * source["loss"]
        # "": not asked for.
        asked = setting.steps > 0
        row["healing"] = conversion_healing.heal(setting, definition, params, goal) if asked else []
        row["steps"] = conversion_healing.reached(row["healing"], goal) if asked else ""
    return row


def _matched(setting: Setting, config, params, name: str):
    """The parameters after the attention of every layer is matched to that of the source."""
    from ivx import config as configs
    from ivx.build import stages
    from ivx.commands import convert

    folder = setting.out / "matched" / name.replace(" ", "_")
    configs.claim_workdir(folder, config)
    matching = stages.attention_matching(config, setting.base)
    return convert.match(config, folder, matching, params, setting.mesh)[0]


def _compared(setting: Setting, other) -> dict:
    from ivx.evaluation import divergence

    source = setting.base.definition.bind, setting.params
    return divergence.divergence(source, other, setting.held, setting.mesh)._asdict()


def _accuracy(setting: Setting, definition, params) -> float | None:
    """Share of right answers to held-out questions, before any training."""
    from ivx import build
    from ivx.build import stored
    from ivx.evaluation import runner, scoring
    from ivx.sampling.sampler import Sampler

    if not setting.questions:
        return None
    [(_, asked)] = build.samples(setting.config, ("synthetic_test",))
    end = stored.words(setting.config).end_of_turn
    rule = build.layout_rule(setting.config)
    # Every so many, so that all families are among them.
    chosen = asked[:: max(1, len(asked) // setting.questions)][: setting.questions]
    # All at once: every other number of prompts would be compiled for itself.
    sampler, most = Sampler(definition, params, end, setting.mesh), len(chosen)
    outcome = runner.run(sampler, rule, chosen, 24, most, None)
    scores = [scoring.score(prediction) for prediction in outcome.predictions]
    return sum(scores) / len(scores)
