"""Evaluations in a workdir: predictions as JSON lines, the score table as JSON."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence

from ivx.errors import UserError
from ivx.evaluation.scoring import Prediction, Row

FOLDER = "evaluation"


def folder_of(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Where the evaluation of data set `name` is stored."""
    return workdir / FOLDER / name


def save(
    workdir: pathlib.Path,
    name: str,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    baseline: Sequence[Row],
) -> pathlib.Path:
    """Writes the evaluation of data set `name` atomically, replacing an older one."""
    folder = folder_of(workdir, name)
    partial = folder.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lines = "".join(json.dumps(dataclasses.asdict(prediction)) + "\n" for prediction in predictions)
    (partial / "predictions.jsonl").write_text(lines)
    results = {
        "model": [dataclasses.asdict(row) for row in rows],
        "text_only": [dataclasses.asdict(row) for row in baseline],
    }
    (partial / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def load(folder: pathlib.Path) -> tuple[list[Prediction], list[Row], list[Row]]:
    """Reads what `save` wrote: predictions, the model's rows and the baseline's rows.

    Raises:
      UserError: a file is damaged.
    """
    try:
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        results = json.loads((folder / "results.json").read_text())
        return (
            [Prediction(**json.loads(line)) for line in lines],
            [Row(**row) for row in results["model"]],
            [Row(**row) for row in results["text_only"]],
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"the evaluation {folder} is damaged ({type(error).__name__}: {error}); evaluate again,"
            " or remove it"
        ) from error
