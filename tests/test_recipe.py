"""The recipe: stages follow each other, none is done twice, aims are reckoned right."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import recipe as experiment
from ivx.commands.recipe import outcome, page, progress, seeds
from ivx.commands.recipe.progress import Done
from ivx.commands.recipe.stages import Recipe
from ivx.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def row(family: str, kind: str, score: float, chance: float = 0.25, count: int = 10) -> dict:
    metric = "mIoU" if "grounding" in family else "accuracy"
    return {
        "family": family,
        "format": kind,
        "count": count,
        "metric": metric,
        "score": score,
        "chance": chance,
    }


def done(name: str, score: float, long: float, choice: float) -> Done:
    """A stage whose scores are all told by three numbers."""
    rows = {
        "short": [row("order", "open", score), row("order", "choice", choice)],
        "long": [row("long_grounding", "open", long), row("long_needle", "open", long)],
    }
    return Done(name, "0", 90.0, False, 10, 1000, {}, 0.5, rows)


SPLITS = ["short", "long"]
AGENT = {
    "agent": 0.9,
    "single_pass": 0.5,
    "questions": 40,
    "frames": 32,
    "frames_labelled": 80.0,
    "page": "traces/0000/trace.html",
}
STAGES = {
    "base": done("base", 0.85, 0.0, 0.85),
    "convert": done("convert", 0.55, 0.0, 0.55),
    "cpt": done("cpt", 0.80, 0.0, 0.80),
    "sft_short": done("sft_short", 0.80, 0.3, 0.80),
    "sft_long": done("sft_long", 0.80, 0.5, 0.80),
    "rl_gspo": done("rl_gspo", 0.80, 0.6, 0.77),
    "opd": done("opd", 0.86, 0.8, 0.80),
    "agent": Done("agent", "0", 60.0, False, 0, 0, AGENT, None, {}),
}


def test_aims_are_reckoned_from_the_rows():
    found = {aim.what: aim for aim in outcome.aims(STAGES, done("teacher", 1.0, 1.0, 1.0), SPLITS)}
    reached = {what: aim.reached for what, aim in found.items()}
    kept = found["conversion alone keeps of the advantage of the base"]
    assert kept.found == "50%" and not kept.reached  # (0.55 - 0.25) / (0.85 - 0.25)
    assert found["continued pretraining brings it back to"].found == "92%"
    assert reached["long fine-tuning lifts long_grounding"]
    assert found["RL changes grounding mIoU by"].found == "+0.100"
    assert found["RL changes multiple choice by"].found == "-0.030"
    assert not reached["RL changes multiple choice by"]
    # Gap before: 1 - (0.8 + 0.77 + 0.6 + 0.6) / 4; after: 1 - (0.86 + 0.8 + 0.8 + 0.8) / 4.
    assert found["distillation closes of the gap to its teacher"].found == "40%"
    assert [aim.reached for what, aim in found.items() if "the agent" in what] == [True]


def test_aims_of_stages_that_did_not_run_are_left_out():
    few = {name: STAGES[name] for name in ("base", "convert")}
    assert len(outcome.aims(few, None, SPLITS)) == 1


def test_the_table_and_the_page_show_every_stage(tmp_path):
    stages = list(STAGES.values())
    aims = outcome.aims(STAGES, None, SPLITS)
    text = outcome.render(stages, aims)
    written = page.write(tmp_path, stages, None, aims).read_text()
    for name in STAGES:
        assert name in written
    for aim in aims:
        assert aim.what in text and aim.what in written
    assert "  long_needle open" in text and "<svg" in written


def test_seeds_side_by_side_give_means_and_ranges():
    """One seed's questions miss a family, another's base is known no better than chance."""
    few = done("base", 0.4, 0.0, 0.4)
    few.rows["long"].pop()
    first = seeds.Outcome(
        [STAGES["base"], STAGES["convert"]], outcome.aims(STAGES, None, SPLITS), None
    )
    second = seeds.Outcome([few, done("convert", 0.35, 0.0, 0.4)], [], done("teacher", 1, 1, 1))
    lines = seeds.render([first, second]).splitlines()
    assert lines[0] == "| | chance | base | convert |"
    assert "| order, open | 0.25 | 0.625 (0.400 - 0.850) | 0.450 (0.350 - 0.550) |" in lines
    assert "| long_needle, open | 0.25 | 0.000 | 0.000 |" in lines
    [kept] = [line for line in lines if "conversion alone keeps" in line]
    assert kept.endswith("| 50% | 0 of 1 |")


def test_seeds_are_different_numbers():
    assert seeds.numbers(["2", "0"]) == [2, 0]
    for given in (["0", "one"], ["1", "01"], ["-1"]):
        with pytest.raises(UserError, match="not different numbers"):
            seeds.numbers(given)


def test_an_aim_without_its_rows_is_left_out():
    """A base that knows nothing has no advantage to keep; few questions may miss a family."""
    blind = {name: done(name, 0.25, 0.0, 0.25) for name in ("base", "convert", "cpt")}
    assert outcome.aims(blind, None, SPLITS) == []


def test_a_stage_is_marked_only_when_it_is_whole(tmp_path):
    assert progress.read(tmp_path) is None
    progress.write(tmp_path, STAGES["opd"])
    assert progress.read(tmp_path) == STAGES["opd"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": ("base", "cpt")}, "cpt needs convert before it"),
        ({"stages": ("base", "sleep")}, "no stage sleep"),
        ({"stages": ("export",)}, "do not begin with base"),
        ({"base": "/nowhere"}, "base = '/nowhere' is no Hugging Face folder"),
        ({"synthesize": ""}, "mixture = '' is no file"),
        ({"synthesize": "much"}, "'much' is no preset"),
    ],
)
def test_what_cannot_begin_is_refused_in_one_sentence(changes, sentence, tmp_path):
    config = experiment.get_config("tiny")
    (tmp_path / "config.json").write_text("{}")
    config.base = str(tmp_path)
    config.update(changes)
    with pytest.raises(UserError, match=sentence):
        Recipe(config, ROOT / "experiments", tmp_path).check()


def start(workdir: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "ivx", "recipe", "--config=experiments/recipe.py:quick"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def table(process: subprocess.Popen) -> list[dict]:
    """What a recipe printed of its stages, clocks left out."""
    out, _ = process.communicate(timeout=1500)
    assert process.returncode == 0
    stages = json.loads(out.splitlines()[-1])["stages"]
    clocks_and_paths = ("seconds", "resumed", "origin")
    return [{k: v for k, v in one.items() if k not in clocks_and_paths} for one in stages]


@pytest.mark.slow
def test_a_recipe_killed_in_every_stage_ends_with_the_same_table(tmp_path):
    """SIGKILL in each stage that trains, rollouts included, and the same command again."""
    whole = table(start(tmp_path / "whole"))
    workdir = tmp_path / "killed"
    for stage in ("convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd", "agent"):
        process = start(workdir)
        begun = workdir / stage
        while not begun.is_dir() or not any(begun.iterdir()):
            assert process.poll() is None, f"the recipe ended before {stage}"
            time.sleep(0.2)
        time.sleep(12)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = table(start(workdir))
    assert killed == whole
