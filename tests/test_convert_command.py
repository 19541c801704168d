"""The command that converts: once, goes on, its result can be used, and bad input is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import base
from experiments import convert as convert_experiment
from ivx import build, config
from ivx.hf import ranks
from ivx.training import checkpoint
from tests.command import ivx, refused


@pytest.fixture(scope="module")
def base_workdir(tmp_path_factory, data_folder) -> pathlib.Path:
    """A base of random parameters."""
    workdir = tmp_path_factory.mktemp("base")
    experiment = base.get_config("tiny")
    experiment.data.mixture = str(data_folder / "data.json")
    config.claim_workdir(workdir, experiment)
    params = build.model_definition(experiment).init(0)
    checkpoint.save_params(workdir, params, config.snapshot(experiment))
    return workdir


def arguments_of(base_workdir, data_folder, workdir) -> list[str]:
    """A conversion of the base into a workdir, on few data."""
    return [
        "convert",
        "--config=experiments/convert.py:tiny",
        f"--workdir={workdir}",
        f"--config.run.start={base_workdir}",
        f"--config.data.mixture={data_folder / 'data.json'}",
        "--config.data.train=('synthetic_train',)",
        "--config.data.batch_packs=2",
    ]


def test_the_command_converts_once_and_its_result_can_be_used(base_workdir, data_folder, tmp_path):
    arguments = [
        *arguments_of(base_workdir, data_folder, tmp_path / "m2la"),
        "--config.stage.calibration_packs=8",
        "--config.run.validate_packs=2",
        "--config.run.steps=6",
        "--config.stage.balances=(0.5,2.0)",
        "--config.stage.mean_rank=32",
        "--json",
    ]
    first = ivx(*arguments)
    assert first.returncode == 0, first.stderr
    assert "grouped attention" in first.stdout and "rope energy" in first.stdout
    result = json.loads(first.stdout.splitlines()[-1])
    assert list(result["losses"]) == ["base", "qk_norm", "rope", "latent", "matched"]
    assert result["matched"]["steps"] == 6 and result["matched"]["tokens"] > 0
    assert all(np.isfinite(loss) for loss in result["losses"].values())
    assert len(result["layers"]) == 4 and result["tokens"] > 0
    assert sorted(result["balances"]) == ["0.5", "2.0"]
    widths = [layer["rank"] for layer in result["layers"]]
    assert sum(widths) == 4 * 32 and max(widths) <= 64
    assert not (tmp_path / "m2la" / "statistics").exists()

    again = ivx(*arguments)
    assert again.returncode == 0, again.stderr
    assert "holds this conversion already" in again.stdout
    assert json.loads(again.stdout.splitlines()[-1]) == result

    experiment = config.load_workdir(tmp_path / "m2la")
    definition = build.model_definition(experiment)
    params, step = checkpoint.load_params(tmp_path / "m2la", definition.abstract_params)
    assert step == 6 and definition.spec.text.attention == "m2la"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    # Training leaves the zeros behind narrow latents alone, so that an export finds the ranks.
    written = ranks.found(definition, params)
    assert written == tuple(64 if width == max(widths) else width for width in widths)


def test_a_model_that_is_latent_already_is_refused(data_folder, tmp_path):
    folder = tmp_path / "latent"
    experiment = convert_experiment.get_config("tiny")
    config.claim_workdir(folder, experiment)
    arguments = ["--config=experiments/convert.py:tiny", f"--workdir={tmp_path / 'm2la'}"]
    arguments.append(f"--config.data.mixture={data_folder / 'data.json'}")
    found = refused(ivx("convert", *arguments, f"--config.run.start={folder}"))
    assert "has m2la attention already; take a model with gqa" in found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--config.stage.calibration_packs=2"], "calibration tokens are too few"),
        (["--config.model.kv_rank=161"], "latent of 161 numbers is wider than the 160"),
        (["--config.stage.mean_rank=65"], "mean_rank = 65 is more than the widest"),
        (["--config.run.start="], "no --config.run.start was given"),
        (["--config.run.start=/nonexistent"], "is not a workdir"),
        (["--config.model.preset=8b"], "is of another architecture"),
        (["--config.model.attention=gqa"], "cannot run stage convert with attention gqa"),
    ],
)
def test_bad_input_gets_one_sentence(base_workdir, data_folder, tmp_path, changes, sentence):
    arguments = arguments_of(base_workdir, data_folder, tmp_path / "m2la")
    assert sentence in refused(ivx(*arguments, *changes))
    assert not (tmp_path / "m2la").exists()
