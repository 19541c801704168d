"""Experiments by name: `--config=sft_short:tiny` from any folder."""

import json
import pathlib

import ml_collections
import pytest

from ivx import config as configs
from ivx import config_checks
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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = (", "SyntaxError: '(' was never closed, line 1"),
        ("x = 1", "is no config: it lacks a function get_config"),
        ("raise RuntimeError('boom\\nbang')", "RuntimeError: boom bang"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def get_config():\n  return 1", "TypeError"),
        ("def get_config(preset=''):\n  return 3", "returns a int, no ConfigDict"),
        ("def get_config(preset=''):\n  raise KeyError('a')", "failed: KeyError: 'a'"),
        ("\0", "cannot be used as a config: "),
    ],
)
def test_file_that_is_no_config_is_refused_in_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        experiments.load(path, "tiny")
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_missing_file_names_what_there_is(tmp_path):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    for name, sentence in (
        ("yours.py", f"no file {tmp_path}/yours.py; {tmp_path} has mine.py; experiments are base,"),
        ("gone/sft_short.py", "the experiment that ships with ivx is --config=sft_short"),
        (".", f"{tmp_path} is a folder; name a file in it, or an experiment; {tmp_path} has mine"),
        ("notes.txt", "is no Python file"),
    ):
        with pytest.raises(UserError, match=r"^.*$") as raised:
            experiments.load(tmp_path / name)
        assert sentence in str(raised.value)


def test_config_of_another_kind_is_refused():
    own = ml_collections.ConfigDict({"stage": {"name": "sft"}, "run": {"steps": 3}})
    for config, recipe, sentence in (
        (own, False, "lacks mesh.replica, mesh.fsdp, mesh.tensor and more"),
        (own, True, "x is not a recipe"),
        (ml_collections.ConfigDict({"stage": 3}), False, "not the config of a stage"),
        (ml_collections.ConfigDict({}), False, "not the config of a stage"),
    ):
        with pytest.raises(UserError, match=sentence):
            experiments.check_kind(config, "x", recipe)


def test_value_of_another_type_is_refused():
    config = ml_collections.ConfigDict(configs.base().to_dict())
    for key, value in (("steps", "many"), ("seed", None)):
        with config.ignore_type():
            config.run[key] = value
    with pytest.raises(UserError, match=r"run.steps = 'many': expected at least 1.*run.seed"):
        config_checks.validate(config)


def test_file_named_without_its_ending_is_found_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert experiments.resolve("mine:tiny") == "mine:tiny"
    with pytest.raises(UserError, match="mine is a folder"):
        experiments.load(pathlib.Path("mine"))
