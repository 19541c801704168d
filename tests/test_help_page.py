"""The pages of `--help`."""

import pytest

from ivx.commands import data, experiments
from tests.command import fresh, ivx


@pytest.mark.parametrize("action", list(data.ACTIONS))
def test_action_has_a_page_of_its_own(action: str):
    result = ivx("data", action, "--help")
    page = data.ACTIONS[action]
    assert result.returncode == 0 and result.stdout.startswith(page.summary)
    assert f"  ivx data {action} --" in page.example and page.example in result.stdout
    shown = [
        line[4:].partition("=")[0] for line in result.stdout.splitlines() if line[:4] == "  --"
    ]
    assert shown == [*page.flags, "json"]
    assert ivx("data", "--help", action).stdout == result.stdout


def test_page_of_training_names_presets_and_usual_keys():
    text = fresh("train", "--help").stdout
    for name in experiments.names():
        presets = experiments.presets(experiments.module_of(experiments.path_of(name)))
        if name != "recipe":
            assert any(f"  {name} " in line and presets[0] in line for line in text.splitlines())
    for key in ("data.mixture", "optim.learning_rate", "run.steps", "run.start"):
        assert f"  {key} " in text
