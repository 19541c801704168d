"""`ivx report`: writes the page of a run."""

import pathlib

from absl import flags

from ivx.commands import config_flag

SUMMARY = "Write report.html of a run: curves, scores, and frames beside questions and answers."
EXAMPLE = "  ivx report --workdir=/tmp/ivx/sft"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the run.")


def run(given, words: list[str]) -> dict:
    del words
    return report(*config_flag.existing_workdir(given))


def report(workdir: pathlib.Path, config) -> dict:
    """Writes report.html of a run."""
    from ivx.reporting import page

    facts = {
        "model": f"{config.model.preset}, {config.model.attention}",
        "stage": f"{config.stage.name}, {config.stage.reduction} loss",
        "steps": f"{config.run.steps:,}",
        "data": ", ".join(config.data.train),
        "compute": config.model.dtype,
        "seed": str(config.run.seed),
    }
    path = page.write(workdir, facts)
    print(f"report: {path}")
    return {"report": str(path)}
