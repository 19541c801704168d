"""`ivx evaluate`: scores a trained run on held-out questions, beside a model that sees no video."""

import dataclasses

from absl import flags

from ivx.commands import config_flag
from ivx.errors import UserError

SUMMARY = "Score a run on held-out videos, family by family, beside a baseline that sees text only."
EXAMPLE = "  ivx evaluate --workdir=/tmp/ivx/sft --split=synthetic_test"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string("split", "synthetic_test", "Data set of the run's mixture to ask.")
    flags.DEFINE_integer("limit", 0, "Ask only this many questions; 0 asks all.", lower_bound=0)
    flags.DEFINE_integer("batch", 32, "Questions answered at a time.", lower_bound=1)
    flags.DEFINE_integer("max_new_tokens", 24, "Tokens an answer may have.", lower_bound=1)


def run(given, words: list[str]) -> dict:
    del words
    workdir, config = config_flag.existing_workdir(given)

    from ivx import build
    from ivx.evaluation import runner, scoring, store, text_only
    from ivx.parallel import start
    from ivx.training.progress import note

    start.start(cpu_devices=0)
    [(_, asked)] = build.samples(config, (given.split,))
    asked = asked[: given.limit or None]
    unscored = [sample.id for sample in asked if len(text_only.questions(sample)) != 1]
    if unscored:
        raise UserError(
            f"--split={given.split}: sample {unscored[0]} has no single question with a truth;"
            " take a validation or test set"
        )
    rule = build.layout_rule(config)
    sampler, step = build.sampler(config, workdir)
    note(f"asking {len(asked):,} questions of {given.split} at step {step}")
    outcome = runner.run(sampler, rule, asked, given.max_new_tokens, given.batch)
    for sentence in outcome.skipped:
        note(f"skipped {sentence}")
    rows = scoring.table(outcome.predictions)

    training = [
        sample for _, found in build.samples(config, tuple(config.data.train)) for sample in found
    ]
    baseline = scoring.table(text_only.TextOnlyModel().fit(training).predict(asked))
    folder = store.save(workdir, given.split, outcome.predictions, rows, baseline)
    print(scoring.render(rows, baseline))
    print(f"{len(outcome.skipped)} questions skipped; predictions and table in {folder}")
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "step": step,
        "skipped": len(outcome.skipped),
    }
