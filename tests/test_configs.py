"""`ivx configs`: lists experiments, explains keys, prints configs."""

import json

import pytest

from experiments import sft_short
from ivx import config, config_keys
from ivx.commands import configs, experiments
from ivx.errors import UserError
from tests.command import ivx, refused


def test_every_experiment_and_preset_is_listed(capsys):
    listed = configs.list_experiments()["experiments"]
    printed = capsys.readouterr().out
    assert list(listed) == experiments.names()
    for name, experiment in listed.items():
        assert experiment["summary"] and experiment["presets"]
        assert all(f"{name}:{preset}" in printed for preset in experiment["presets"])
    cpt = listed["cpt"]["presets"]["tiny"]
    assert cpt["needs"]["run.start"] == "the output of `ivx convert`"
    assert "run.start" not in listed["base"]["presets"]["tiny"]["needs"]
    assert "--config.stage.teacher" in printed


def test_command_prints_json():
    result = ivx("configs", "--json")
    assert result.returncode == 0, result.stderr
    assert "sft_short" in json.loads(result.stdout.splitlines()[-1])["experiments"]


def test_key_is_explained(capsys):
    [entry] = configs.explain("optim.learning_rate")["keys"]
    assert (entry["section"], entry["default"]) == ("optim", 1e-5)
    assert entry["stages"] == list(config_keys.STAGES)
    printed = capsys.readouterr().out
    for field in ("meaning", "allowed"):
        assert entry[field] in printed
    assert configs.explain("learning_rate")["keys"] == [entry]
    assert entry["experiments"]["sft_short:tiny"] == 6e-4 and "sft_short:tiny: 0.0006" in printed


def test_key_of_several_stages_names_them():
    [entry] = configs.explain("stage.temperature")["keys"]
    assert entry["stages"] == ["gspo", "opd"]
    assert configs.explain("stage.name")["keys"][0]["stages"] == list(config_keys.STAGES)


@pytest.mark.parametrize("key", list(config_keys.everything()))
def test_every_key_can_be_explained(key):
    assert all(entry["key"] == key for entry in configs.explain(key)["keys"])


def test_unknown_key_suggests_nearest():
    with pytest.raises(
        UserError, match=r"'optim.lerning_rate'; did you mean optim.learning_rate\?"
    ):
        configs.explain("optim.lerning_rate")
    with pytest.raises(UserError, match=r"'lr'; did you mean optim.learning_rate\?"):
        configs.explain("lr")
    assert "no key 'dance'" in refused(ivx("configs", "--explain=dance"))


def test_config_is_printed_with_meanings(capsys):
    result = configs.show("sft_short:tiny")
    expected = sft_short.get_config("tiny")
    assert config.flatten(result["config"]) == config.flatten(expected)
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("run.steps ")]
    assert line.startswith("run.steps = 240") and line.endswith("# Steps of the run.")
    keys = {line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")}
    assert keys == set(config.keys(expected))


def test_recipe_is_printed_without_meanings(capsys):
    configs.show("recipe:quick")
    assert "evaluate.batch = 32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--show=sft_short:huge"], "no preset 'huge'"),
        (["--show=sft"], "no experiment 'sft'"),
        (["--show=cpt", "--explain=data.fps"], "exclude each other"),
        (["cpt"], "'cpt'; --show=cpt prints a config"),
    ],
)
def test_bad_input_is_rejected_in_one_sentence(arguments, sentence):
    assert sentence in refused(ivx("configs", *arguments))
