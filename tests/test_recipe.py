"""The recipe: stages follow each other, none is done twice, aims are reckoned right.

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import recipe as experiment
from ivx.commands.recipe import outcome, page, progress
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
        outcome.SHORT: [row("order", "open", score), row("order", "choice", choice)],
        outcome.LONG: [row("long_grounding", "open", long), row("long_needle", "open", long)],
    }
    return Done(name, 90.0, False, 10, 1000, {}, 0.5, rows)


STAGES = {
    "base": done("base", 0.85, 0.0, 0.85),
    "convert": done("convert", 0.55, 0.0, 0.55),
    "cpt": done("cpt", 0.80, 0.0, 0.80),
    "sft_short": done("sft_short", 0.80, 0.3, 0.80),
    "sft_long": done("sft_long", 0.80, 0.5, 0.80),
    "rl_gspo": done("rl_gspo", 0.80, 0.6, 0.77),
    "opd": done("opd", 0.86, 0.8, 0.80),
    "agent": Done("agent", 60.0, False, 0, 0, {"agent": 0.9, "single_pass": 0.5}, None, {}),
}


def test_aims_are_reckoned_from_the_rows():
    found = {aim.what: aim for aim in outcome.aims(STAGES, done("teacher", 1.0, 1.0, 1.0))}
    reached = {what: aim.reached for what, aim in found.items()}
    kept = found["conversion alone keeps of the base's advantage"]
    assert kept.found == "50%" and not kept.reached  # (0.55 - 0.25) / (0.85 - 0.25)
    assert found["after continued pretraining"].found == "92%"
    assert reached["long fine-tuning lifts long_grounding"]
    assert found["RL lifts grounding mIoU"].found == "+0.100"
    assert found["RL keeps multiple choice"].found == "-0.030"
    assert not reached["RL keeps multiple choice"]
    # Gap before: 1 - (0.8 + 0.77 + 0.6 + 0.6) / 4; after: 1 - (0.86 + 0.8 + 0.8 + 0.8) / 4.
    assert found["distillation closes of the gap to its teacher"].found == "40%"
    assert found["the agent finds long needles, against one pass at as many frames"].reached


def test_aims_of_stages_that_did_not_run_are_left_out():
    few = {name: STAGES[name] for name in ("base", "convert")}
    assert len(outcome.aims(few, None)) == 1


def test_the_table_and_the_page_show_every_stage(tmp_path):
    stages = list(STAGES.values())
    aims = outcome.aims(STAGES, None)
    text = outcome.render(stages, aims)
    written = page.write(tmp_path, stages, None, aims).read_text()
    for name in STAGES:
        assert name in written
    for name in outcome.aims(STAGES, None):
        assert name.what in text
    assert "long_needle open (long)" in text and "<svg" in written


def test_a_stage_is_marked_only_when_it_is_whole(tmp_path):
    assert progress.read(tmp_path) is None
    progress.write(tmp_path, STAGES["opd"])
    assert progress.read(tmp_path) == STAGES["opd"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": ("base", "cpt")}, "cpt needs convert"),
        ({"stages": ("base", "sleep")}, "no stage sleep"),
        ({"base": "/nowhere"}, "no base at '/nowhere'"),
        ({"synthesize": ""}, "no --config.mixture"),
    ],
)
def test_what_cannot_begin_is_refused_in_one_sentence(changes, sentence, tmp_path):
    config = experiment.get_config("tiny")
    config.base = str(tmp_path)
    config.update(changes)
    with pytest.raises(UserError, match=sentence):
        Recipe(config, ROOT / "experiments", tmp_path, False).check()


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
    plain = [{k: v for k, v in one.items() if k not in ("seconds", "resumed")} for one in stages]
    for one in plain:
        one["facts"] = {k: v for k, v in one["facts"].items() if k not in ("out", "workdir")}
    return plain


@pytest.mark.slow
def test_a_recipe_killed_in_every_stage_ends_with_the_same_table(tmp_path):
    """SIGKILL in each stage that trains, rollouts included, and the same command again."""
    whole = table(start(tmp_path / "whole"))
    workdir = tmp_path / "killed"
    for stage in ("convert", "cpt", "sft_long", "rl_gspo", "opd", "agent"):
        process = start(workdir)
        begun = workdir / stage
        while not begun.is_dir() or not any(begun.iterdir()):
            assert process.poll() is None, f"the recipe ended before {stage}"
            time.sleep(0.2)
        time.sleep(12)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = table(start(workdir))
    assert [dataclasses.asdict(Done(seconds=0, resumed=False, **one)) for one in killed] == [
        dataclasses.asdict(Done(seconds=0, resumed=False, **one)) for one in whole
    ]
