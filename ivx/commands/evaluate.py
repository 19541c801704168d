"""`ivx evaluate`: scores a trained run on held-out questions, beside a model that sees no video."""

import dataclasses

from absl import flags

from ivx.errors import UserError

SUMMARY = "Score a run on held-out videos, family by family, beside a baseline that sees text only."
EXAMPLE = """\
  ivx evaluate --workdir=/tmp/ivx/sft --split=synthetic_test
  ivx evaluate --workdir=assets/tiny-base --mixture=/tmp/ivx/data/data.json --out=/tmp/ivx/base"""


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "A run, or a Hugging Face folder.")
    flags.DEFINE_string("split", "synthetic_test", "Data set of the mixture to ask.")
    flags.DEFINE_string("mixture", "", "Another mixture file than the run's.")
    flags.DEFINE_string("out", "", "Where predictions and table go; the workdir if not given.")
    flags.DEFINE_integer("limit", 0, "Ask only this many questions; 0 asks all.", lower_bound=0)
    flags.DEFINE_integer("batch", 32, "Questions answered at a time.", lower_bound=1)
    flags.DEFINE_integer("max_new_tokens", 24, "Tokens an answer may have.", lower_bound=1)
    flags.DEFINE_bool(
        "enable_thinking", None, "Open a thought (or, with no..., an empty one) before the answer."
    )


def run(given, words: list[str]) -> dict:
    del words

    from ivx import build
    from ivx.build import hugging_face, stored

    model = stored.open_model(build.workdir(given.workdir))
    if given.mixture:
        model.config.data.mixture = given.mixture
    if not given.out and hugging_face.is_model(model.folder):
        raise UserError(
            f"{model.folder} is a Hugging Face folder, which is only read;"
            " say with --out where the scores are to go"
        )
    out = build.workdir(given.out or given.workdir)
    return evaluate(
        model,
        given.split,
        out,
        given.limit,
        given.batch,
        given.max_new_tokens,
        given.enable_thinking,
    )


def evaluate(
    model,
    split: str,
    out,
    limit: int,
    batch: int,
    max_new_tokens: int,
    enable_thinking: bool | None = None,
) -> dict:
    """Asks a stored model the questions of one data set, prints and stores the table.

    Args:
      model: an `ivx.build.stored.StoredModel`; its config names the mixture.
      split: the data set.
      out: the folder under which predictions and table are stored.
      limit: questions to ask; 0 for all.
      batch: questions at a time.
      max_new_tokens: tokens an answer may have.
      enable_thinking: whether the prompt opens a thought; only what follows one is scored.

    Raises:
      UserError: the data set or the model cannot be used.
    """
    from ivx import build
    from ivx.evaluation import runner, scoring, store, text_only
    from ivx.parallel import start
    from ivx.training.progress import note

    config = model.config
    start.start(config.mesh.cpu_devices)
    [(_, asked)] = build.samples(config, (split,))
    asked = asked[: limit or None]
    unscored = [sample.id for sample in asked if len(text_only.questions(sample)) != 1]
    if unscored:
        raise UserError(
            f"--split={split}: sample {unscored[0]} has no single question with a truth;"
            " take a validation or test set"
        )
    sampler, step = build.sampler(model, build.mesh(config))
    note(f"asking {len(asked):,} questions of {split} at step {step}")
    outcome = runner.run(
        sampler, build.layout_rule(config), asked, max_new_tokens, batch, enable_thinking
    )
    for sentence in outcome.skipped:
        note(f"skipped {sentence}")
    rows = scoring.table(outcome.predictions)
    baseline = scoring.table(text_only.TextOnlyModel().fit(_training(config)).predict(asked))
    folder = store.save(out, split, outcome.predictions, rows, baseline)
    print(scoring.render(rows, baseline))
    print(f"{len(outcome.skipped)} questions skipped; predictions and table in {folder}")
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "step": step,
        "skipped": len(outcome.skipped),
    }


def held_out_loss(model, config) -> float | None:
    """Token loss of a stored model on the validation packs of a config; None without such."""
    from ivx import build
    from ivx.evaluation import held_out
    from ivx.parallel import rules, start

    start.start(config.mesh.cpu_devices)
    batches = build.validation_batches(config)
    if not batches:
        return None
    mesh = build.mesh(config)
    params, _ = model.load(rules.parameter_shardings(model.definition.abstract, mesh))
    return held_out.loss(model.definition.bind, params, batches, mesh, "token")


def _training(config) -> list:
    """Samples of the training sets that the mixture has; an imported model knows of none."""
    from data_pipelines import sources
    from ivx import build

    there = sources.data_set_names(config.data.mixture)
    names = tuple(name for name in config.data.train if name in there)
    found = build.samples(config, names, training=True)
    return [sample for _, samples in found for sample in samples]
