"""`ivx report`: writes the report page of a run."""

import pathlib
from typing import Any

import ml_collections
from absl import flags

from ivx.commands import config_flag

SUMMARY = "Write a report.html for a run: curves, scores, and answers with their frames."
EXAMPLE = "  ivx report --workdir=/tmp/ivx/sft"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Workdir of the run.")


def run(args: Any, words: list[str]) -> dict:
    del words
    return report(*config_flag.existing_workdir(args))


def report(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict:
    """Writes report.html of a run."""
    from ivx.reporting import page
    from ivx.training import data_changes

    facts = {
        "model": f"{config.model.preset}, {config.model.attention}",
        "stage": f"{config.stage.name}, {config.stage.reduction} loss",
        "steps": f"{config.run.steps:,}",
        "data": ", ".join(config.data.train),
        "compute": config.model.dtype,
        "seed": str(config.run.seed),
    }
    if changes := data_changes.read(workdir):
        facts["data changed"] = "; ".join(changes)
    path = page.write(workdir, facts)
    print(f"report: {path}")
    return {"report": str(path)}
