"""`ivx evaluate`: scores a model on held-out questions, next to a text-only baseline."""

import dataclasses
import pathlib
from typing import Any

import ml_collections
from absl import flags

from ivx import folder_lock
from ivx.commands import memory_check
from ivx.errors import UserError, keeping

SUMMARY = "Score a model on held-out videos, per question family, next to a text-only baseline."
EXAMPLE = """\
  ivx evaluate --workdir=/tmp/ivx/sft --split=synthetic_test
  ivx evaluate --workdir=assets/tiny-base --mixture=/tmp/ivx/data/data.json --out=/tmp/ivx/base"""


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Workdir of a run, or Hugging Face folder.")
    flags.DEFINE_string(
        "split", "synthetic_test", "Data set of the mixture whose questions are asked."
    )
    flags.DEFINE_string("mixture", "", "Mixture file that replaces that of the run.")
    flags.DEFINE_string("out", "", "Folder of predictions and table; default: the workdir.")
    flags.DEFINE_integer("limit", 0, "Questions to ask; 0 asks all.", lower_bound=0)
    flags.DEFINE_integer("batch", 32, "Questions answered at a time.", lower_bound=1)
    flags.DEFINE_integer("max_new_tokens", 24, "Longest answer, in tokens.", lower_bound=1)
    flags.DEFINE_enum(
        "dtype",
        "auto",
        ["auto", "float32", "bfloat16"],
        "Dtype of weights and computation. auto: that of the model; on a CPU float32, which is"
        " faster there, unless only bfloat16 fits into memory.",
    )
    flags.DEFINE_bool(
        "enable_thinking", None, "Open a thought before the answer, or (--no...) an empty one."
    )
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words

    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices

    model = from_config.stored_model.open_model(workdirs.parse(args.workdir))
    if args.mixture:
        model.config.data.mixture = args.mixture
    if not args.out and from_config.hf_folder.is_model(model.folder):
        raise UserError(
            f"{model.folder} is a Hugging Face folder, which ivx does not write to;"
            " give an --out for the scores"
        )
    out = workdirs.parse(args.out or args.workdir)
    devices.configure_devices(model.config.mesh.cpu_devices)
    model = from_config.stored_model.with_dtype(model, args.dtype)
    mesh = from_config.mesh.make(model.config)
    memory_check.check(
        from_config.memory_forecast.answering(model, mesh),
        args.ignore_memory_forecast,
        lambda sizes: memory_check.dtype_knobs(model.definition.spec.dtype),
    )
    return evaluate(
        model,
        args.split,
        out,
        args.limit,
        args.batch,
        args.max_new_tokens,
        args.enable_thinking,
    )


def evaluate(
    model: Any,
    split: str,
    out: pathlib.Path,
    limit: int,
    batch: int,
    max_new_tokens: int,
    enable_thinking: bool | None = None,
) -> dict:
    """Asks a stored model the questions of a data set, and prints and stores the table.

    Args:
      model: an `ivx.from_config.stored_model.StoredModel`; its config names the mixture.
      split: the data set.
      out: the folder under which predictions and table are stored.
      limit: questions to ask; 0 for all.
      batch: questions at a time.
      max_new_tokens: the longest answer, in tokens.
      enable_thinking: whether the prompt opens a thought; only the text after it is scored.

    Raises:
      UserError: the data set or the model cannot be used.
    """
    from ivx import from_config
    from ivx.evaluation import runner, scoring, store, text_only
    from ivx.parallel import devices
    from ivx.progress import note

    nothing = f"nothing was written to {out}"
    with folder_lock.beside(store.folder_of(out, split)), keeping(nothing):
        config = model.config
        devices.configure_devices(config.mesh.cpu_devices)
        [(_, samples)] = from_config.data.samples(config, (split,))
        samples = samples[: limit or None]
        unscored = [sample.id for sample in samples if len(text_only.questions(sample)) != 1]
        if unscored:
            raise UserError(
                f"--split={split}: sample {unscored[0]} does not have exactly one question with a"
                " truth; take a validation or test set"
            )
        sampler, step = from_config.inference.sampler(model, from_config.mesh.make(config))
        note(f"asking {len(samples):,} questions of {split} at step {step}")
        rule = from_config.data.layout_rule(config)
        outcome = runner.run(sampler, rule, samples, max_new_tokens, batch, enable_thinking)
        for sentence in outcome.skipped:
            note(f"skipped {sentence}")
        rows = scoring.table(outcome.predictions)
        text_model = text_only.TextOnlyModel().fit(_training_samples(config))
        baseline = scoring.table(text_model.predict(samples))
        folder = store.save(out, split, outcome.predictions, rows, baseline)
        print(scoring.render(rows, baseline))
        print(
            "n: questions; chance: a random option or the best constant answer; text only: naive"
            " Bayes on the words of the questions, without the video"
        )
        print(f"{len(outcome.skipped)} questions skipped; predictions and table in {folder}")
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "step": step,
        "skipped": len(outcome.skipped),
    }


def held_out_loss(model: Any, config: ml_collections.ConfigDict) -> float | None:
    """Token loss of a stored model on the validation packs of a config; None if it has none."""
    from ivx import from_config
    from ivx.evaluation import held_out
    from ivx.parallel import devices, sharding

    devices.configure_devices(config.mesh.cpu_devices)
    batches = from_config.data.validation_batches(config)
    if not batches:
        return None
    mesh = from_config.mesh.make(config)
    definition = model.definition
    shardings = sharding.parameter_shardings(definition.abstract, mesh)
    params, _ = model.load(shardings, definition.spec.dtype)
    return held_out.loss(definition.bind, params, batches, mesh, "token")


def _training_samples(config: ml_collections.ConfigDict) -> list:
    """Samples of the training sets that the mixture has; it may have none of an imported model."""
    from data_pipelines import sources
    from ivx import from_config

    available = sources.data_set_names(config.data.mixture)
    names = tuple(name for name in config.data.train if name in available)
    data_sets = from_config.data.samples(config, names, training=True)
    return [sample for _, samples in data_sets for sample in samples]
