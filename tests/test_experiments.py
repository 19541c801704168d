"""Experiments by name: `--config=sft_short:tiny` from any folder."""

import json
import pathlib

import pytest

from ivx.commands import experiments
from ivx.errors import UserError
from tests.command import ROOT, fresh, refused


def test_all_experiments_are_found():
    assert {"base", "convert", "cpt", "sft_short", "recipe"} <= set(experiments.names())
    assert not any(name.startswith("_") for name in experiments.names())


@pytest.mark.parametrize(
    ("arguments", "resolved"),
    [
        (["--config=cpt:tiny"], ["--config={}/cpt.py:tiny"]),
        (["-config=cpt"], ["-config={}/cpt.py"]),
        (["--config", "cpt:tiny", "--json"], ["--config", "{}/cpt.py:tiny", "--json"]),
        (
            ["-config", "cpt", "--config.run.steps=3"],
            ["-config", "{}/cpt.py", "--config.run.steps=3"],
        ),
        (["--config=experiments/cpt.py:tiny"], ["--config=experiments/cpt.py:tiny"]),
        (["--config=mine.py"], ["--config=mine.py"]),
        (["--config.data.mixture=cpt", "cpt"], ["--config.data.mixture=cpt", "cpt"]),
    ],
)
def test_names_are_resolved_and_paths_kept(arguments, resolved):
    folder = experiments.folder()
    assert experiments.resolve_arguments(arguments) == [text.format(folder) for text in resolved]


def test_unknown_name_suggests_nearest_and_lists_all():
    with pytest.raises(
        UserError, match=r"'sft_shrt'; did you mean sft_short\?.* base, convert, cpt"
    ):
        experiments.resolve("sft_shrt:tiny")
    with pytest.raises(UserError, match="no experiment '_policy'"):
        experiments.resolve("_policy")


def test_name_works_from_another_folder(tmp_path):
    result = fresh("configs", "--show", "sft_short:tiny", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["config"]["run"]["steps"] == 240
    sentence = refused(fresh("train", "--config=sft_short:tiny", cwd=tmp_path))
    assert "run.start = ''" in sentence


def test_presets_and_needs_come_from_the_files():
    path = pathlib.Path(experiments.path_of("opd"))
    assert path == ROOT / "experiments" / "opd.py"
    module = experiments.module_of(path)
    assert experiments.presets(module) == ["tiny", "8b"]
    assert experiments.summary(module).startswith("On-policy distillation")
    assert experiments.summary(module, "tiny").startswith("16 questions")
    needs = experiments.needs(module.get_config("tiny"))
    assert list(needs) == ["data.mixture", "run.start", "stage.teacher"]
    recipe = experiments.module_of(experiments.path_of("recipe"))
    assert {"tiny", "quick", "8b"} <= set(experiments.presets(recipe))
    assert experiments.needs(recipe.get_config("tiny")) == {}
    assert list(experiments.needs(recipe.get_config("8b"))) == ["mixture", "base", "teacher"]
