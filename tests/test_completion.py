"""`ivx completion`: the printed script completes in a real bash."""

import subprocess

import pytest

from ivx.commands import completion, experiments, table
from tests.command import ivx, refused


@pytest.fixture(scope="module")
def script() -> str:
    result = ivx("completion", "bash")
    assert result.returncode == 0, result.stderr
    return result.stdout


def complete(script: str, line: str) -> list[str]:
    """What bash offers for a command line."""
    code = (
        f"{script}\nCOMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; _ivx;"
        " printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout.split()


def test_function_is_registered(script):
    result = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p ivx"], capture_output=True, text=True, timeout=60
    )
    assert "-F _ivx ivx" in result.stdout


def test_commands_are_completed(script):
    assert set(table.MODULES) <= set(complete(script, "ivx "))
    assert complete(script, "ivx comp") == ["compile", "completion"]
    assert complete(script, "ivx --v") == ["--version"]


def test_flags_of_command_are_completed(script):
    assert complete(script, "ivx chat --vi") == ["--video"]
    assert complete(script, "ivx compile --config=cpt --topo") == ["--topology"]
    assert {"--seeds", "--json", "--help"} <= set(complete(script, "ivx recipe --"))
    assert complete(script, "ivx report --split") == []


def test_config_names_are_completed(script):
    assert complete(script, "ivx train --config=sft_l") == ["sft_long:tiny", "sft_long:8b"]
    # bash replaces only the text behind the colon.
    assert complete(script, "ivx train --config=sft_long:t") == ["tiny"]
    assert "cpt:tiny" in complete(script, "ivx train --config ")
    assert complete(script, "ivx train --config cpt:8") == ["8b"]


def test_every_preset_is_offered():
    names = completion.config_names()
    assert {name.partition(":")[0] for name in names} == set(experiments.names())


def test_zsh_script_loads_bash_completion():
    text = completion.script("zsh", {"train": ["config"]}, ["cpt:tiny"])
    assert (
        text.startswith("autoload -Uz bashcompinit") and "complete -o default -F _ivx ivx" in text
    )


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"]])
def test_other_shells_are_rejected(words):
    assert "expected bash or zsh" in refused(ivx("completion", *words))
