"""`ivx convert` runs once, gives a usable result and rejects bad input."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from experiments import base
from experiments import convert as convert_experiment
from ivx import config, from_config
from ivx import workdir as workdirs
from ivx.commands import convert, convert_summary
from ivx.hf import ranks
from ivx.training.checkpoints import checkpoint
from tests.command import ivx, refused


@pytest.fixture(scope="module")
def base_workdir(
    tmp_path_factory: pytest.TempPathFactory, data_folder: pathlib.Path
) -> pathlib.Path:
    """A base with random parameters."""
    workdir = tmp_path_factory.mktemp("base")
    experiment = base.get_config("tiny")
    experiment.data.mixture = str(data_folder / "data.json")
    workdirs.claim(workdir, experiment)
    params = from_config.model.definition(experiment).init(0)
    checkpoint.save_params(workdir, params, config.snapshot(experiment))
    return workdir


def arguments_of(
    base_workdir: pathlib.Path, data_folder: pathlib.Path, workdir: pathlib.Path
) -> list[str]:
    """Arguments that convert the base into a workdir, on little data."""
    return [
        "convert",
        "--config=experiments/convert.py:tiny",
        f"--workdir={workdir}",
        f"--config.run.start={base_workdir}",
        f"--config.data.mixture={data_folder / 'data.json'}",
        "--config.data.train=('synthetic_train',)",
        "--config.data.batch_packs=2",
    ]


def test_command_converts_once_and_its_result_is_usable(
    base_workdir: pathlib.Path, data_folder: pathlib.Path, tmp_path: pathlib.Path
):
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
    *_, converted, following, last = first.stdout.splitlines()
    assert converted == f"converted model: {tmp_path / 'm2la'}"
    assert f"ivx train --config=cpt:tiny --workdir={tmp_path / 'm2la'}-cpt" in following
    assert f"--config.run.start={tmp_path / 'm2la'}" in following
    result = json.loads(last)
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

    experiment = workdirs.load(tmp_path / "m2la")
    definition = from_config.model.definition(experiment)
    params, step = checkpoint.load_params(tmp_path / "m2la", definition.abstract_params)
    assert step == 6 and definition.spec.text.attention == "m2la"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    # Training preserves the padding of smaller latents, so an export recovers the ranks.
    exported = ranks.layer_ranks(definition, params)
    assert exported == tuple(64 if width == max(widths) else width for width in widths)


def test_conversion_without_validation_makes_no_intermediate_model():
    """The models after each step are made on demand; at 8B each is 9 GB."""

    def made() -> Iterator[None]:
        raise AssertionError("a model was made that nothing measures")
        yield

    mesh = from_config.mesh.make(config.base("convert"))
    assert convert._losses(config.base("convert"), made(), [], mesh) == {}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "--config=cpt:8b"),
        ({"preset": "2b"}, "--config=cpt:8b --config.model.preset=2b"),
        ({"attention": "m2la_exact"}, "--config=cpt:8b --config.model.attention=m2la_exact"),
    ],
)
def testnext_command_keeps_the_sizes_of_the_converted_model(changes, expected):
    experiment = convert_experiment.get_config("8b")
    experiment.data.mixture = "/data/my data.json"
    experiment.model.update(changes)
    command = convert_summary.next_command(experiment, pathlib.Path("/runs/m2la"))
    rest = " --config.run.start=/runs/m2la '--config.data.mixture=/data/my data.json'"
    start, *changed = expected.split(maxsplit=1)
    middle = "".join(f" {word}" for word in changed)
    assert command == f"ivx train {start} --workdir=/runs/m2la-cpt{middle}{rest}"


def test_latent_model_is_rejected(data_folder: pathlib.Path, tmp_path: pathlib.Path):
    folder = tmp_path / "latent"
    experiment = convert_experiment.get_config("tiny")
    workdirs.claim(folder, experiment)
    arguments = ["--config=experiments/convert.py:tiny", f"--workdir={tmp_path / 'm2la'}"]
    arguments.append(f"--config.data.mixture={data_folder / 'data.json'}")
    message = refused(ivx("convert", *arguments, f"--config.run.start={folder}"))
    assert "already has m2la attention; start from a model with gqa" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.stage.calibration_packs=2"], "calibration tokens are too few"),
        (["--config.model.kv_rank=161"], "latent of rank 161 is wider than the 160"),
        (["--config.stage.mean_rank=65"], "mean_rank = 65 exceeds model.kv_rank"),
        (["--config.run.start="], "--config.run.start is missing"),
        (["--config.run.start=/nonexistent"], "is not a workdir"),
        (["--config.model.preset=8b"], "has another architecture"),
        (["--config.model.attention=gqa"], "cannot run stage convert with attention gqa"),
    ],
)
def test_bad_input_is_rejected(
    base_workdir: pathlib.Path,
    data_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    changes: list[str],
    message: str,
):
    arguments = arguments_of(base_workdir, data_folder, tmp_path / "m2la")
    assert message in refused(ivx(*arguments, *changes))
    assert not (tmp_path / "m2la").exists()
