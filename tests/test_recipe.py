"""The recipe: stages follow each other, finished ones are not run again, aims are computed."""

import html
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import recipe as experiment
from ivx.commands import experiments
from ivx.commands.recipe import command
from ivx.commands.recipe.stages import Recipe
from ivx.errors import UserError
from ivx.evaluation import scoring, store
from ivx.reporting.recipe import aims, page, record, seeds
from ivx.reporting.recipe.purpose import PURPOSE
from ivx.reporting.recipe.record import StageRecord

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


def stage(name: str, score: float, long: float, choice: float) -> StageRecord:
    """A stage with three different scores."""
    rows = {
        "short": [row("order", "open", score), row("order", "choice", choice)],
        "long": [row("long_grounding", "open", long), row("long_needle", "open", long)],
    }
    return StageRecord(name, "0", 90.0, False, 10, 1000, {}, 0.5, rows)


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
    "base": stage("base", 0.85, 0.0, 0.85),
    "convert": stage("convert", 0.55, 0.0, 0.55),
    "cpt": stage("cpt", 0.80, 0.0, 0.80),
    "sft_short": stage("sft_short", 0.80, 0.3, 0.80),
    "sft_long": stage("sft_long", 0.80, 0.5, 0.80),
    "rl_gspo": stage("rl_gspo", 0.80, 0.6, 0.77),
    "opd": stage("opd", 0.86, 0.8, 0.80),
    "agent": StageRecord("agent", "0", 60.0, False, 0, 0, AGENT, None, {}),
}


def test_aims_are_computed_from_rows():
    found = {aim.what: aim for aim in aims.aims(STAGES, stage("teacher", 1.0, 1.0, 1.0), SPLITS)}
    reached = {what: aim.reached for what, aim in found.items()}
    kept = found["advantage over chance kept by conversion alone"]
    assert kept.found == "50%" and not kept.reached  # (0.55 - 0.25) / (0.85 - 0.25)
    assert found["advantage over chance kept after continued pretraining"].found == "92%"
    assert reached["long_grounding after long fine-tuning"]
    assert found["change of grounding mIoU by RL"].found == "+0.100"
    assert found["change of multiple-choice accuracy by RL"].found == "-0.030"
    assert not reached["change of multiple-choice accuracy by RL"]
    # Gap before: 1 - (0.8 + 0.77 + 0.6 + 0.6) / 4; after: 1 - (0.86 + 0.8 + 0.8 + 0.8) / 4.
    assert found["share of the gap to its teacher that distillation closes"].found == "40%"
    assert [aim.reached for what, aim in found.items() if "the agent" in what] == [True]


def test_aims_of_missing_stages_are_left_out():
    few = {name: STAGES[name] for name in ("base", "convert")}
    assert len(aims.aims(few, None, SPLITS)) == 1


def test_table_and_page_show_every_stage(tmp_path):
    stages = list(STAGES.values())
    results = aims.aims(STAGES, None, SPLITS)
    text = aims.render(stages, results)
    written = page.write(tmp_path, stages, None, results).read_text()
    for name in STAGES:
        assert name in written
    for aim in results:
        assert aim.what in text and aim.what in written
    assert "  long_needle open" in text and "<svg" in written
    assert all(purpose in html.unescape(written) for purpose in map(PURPOSE.get, STAGES))


def test_page_of_few_steps_has_a_note_and_no_aims(tmp_path):
    written = page.write(tmp_path, list(STAGES.values()), None, [], few_steps=True).read_text()
    assert page.FEW_STEPS in written and "Aims" not in written and "There are no" not in written
    plenty = page.write(tmp_path, list(STAGES.values()), None, []).read_text()
    assert page.FEW_STEPS not in plenty and "Aims" in plenty


def test_quick_recipe_has_few_steps_and_the_others_have_not(tmp_path):
    for preset, few in (("quick", True), ("demo", False), ("tiny", False)):
        config = experiment.get_config(preset)
        assert Recipe(config, experiments.folder(), tmp_path).has_few_steps() == few


def test_page_begins_with_frames_truths_and_answers_of_every_stage(tmp_path):
    clip = str(ROOT / "assets" / "clip.mp4")
    truth = {"format": "open", "answer": "red", "values": ["red", "blue"]}
    for name, text in (("base", "blue"), ("convert", "red")):
        asked = [
            scoring.Prediction("same", "colour", "Always wrong?", truth, clip, "blue"),
            scoring.Prediction("learned", "colour", "Which colour?", truth, clip, text),
        ]
        store.save(tmp_path / name, "short", asked, scoring.table(asked), ())
    written = page.write(tmp_path, list(STAGES.values()), None, []).read_text()
    shown = written[written.index("Which colour?") : written.index("<h2>Stages")]
    assert "Always wrong?" not in written  # one of a family, and the scores of the other change
    assert "✗ blue" in shown and "✓ red" in shown and "<b>red</b>" in shown
    assert written.count("data:image/jpeg") == 1 and str(ROOT) not in written
    assert written.index("Which colour?") < written.index("Scores after each stage")


def test_scores_that_never_change_have_no_plot_and_others_have_intervals():
    flat = [stage(name, 0.5, 0.0, score) for name, score in (("base", 0.5), ("cpt", 0.75))]
    for scores in (scores for done in flat for rows in done.rows.values() for scores in rows):
        scores.update(low=scores["score"] - 0.2, high=scores["score"] + 0.1)
    [picture] = page._plots(flat)
    assert "short, choice" in picture and "LineCollection" in picture


def test_table_of_seeds_has_means_and_ranges():
    """The questions of one seed lack a family; the base of another is at chance."""
    few = stage("base", 0.4, 0.0, 0.4)
    few.rows["long"].pop()
    first = seeds.Outcome(
        [STAGES["base"], STAGES["convert"]], aims.aims(STAGES, None, SPLITS), None
    )
    second = seeds.Outcome([few, stage("convert", 0.35, 0.0, 0.4)], [], stage("teacher", 1, 1, 1))
    lines = seeds.render([first, second]).splitlines()
    assert lines[0] == "| | chance | base | convert |"
    assert "| order, open | 0.25 | 0.625 (0.400 - 0.850) | 0.450 (0.350 - 0.550) |" in lines
    assert "| long_needle, open | 0.25 | 0.000 | 0.000 |" in lines
    [kept] = [line for line in lines if "kept by conversion alone" in line]
    assert kept.endswith("| 50% | 0 of 1 |")


def test_seeds_must_be_different_numbers():
    assert command.seed_numbers(["2", "0"]) == [2, 0]
    for texts in (["0", "one"], ["1", "01"], ["-1"]):
        with pytest.raises(UserError, match="expected different numbers"):
            command.seed_numbers(texts)


def test_aim_without_rows_is_left_out():
    """A base at chance has no advantage to keep; a few questions may lack a family."""
    blind = {name: stage(name, 0.25, 0.0, 0.25) for name in ("base", "convert", "cpt")}
    assert aims.aims(blind, None, SPLITS) == []


def test_record_is_read_back(tmp_path):
    assert record.read(tmp_path) is None
    record.write(tmp_path, STAGES["opd"])
    assert record.read(tmp_path) == STAGES["opd"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": ("base", "cpt", "convert")}, "convert comes before cpt; the order is base"),
        ({"stages": ("base", "sleep")}, "no stage sleep"),
        ({"stages": ("export",)}, "do not begin with base"),
        ({"base": "/nowhere"}, "base = '/nowhere' is not a Hugging Face folder"),
        ({"synthesize": ""}, "mixture = '' is not a file"),
        ({"synthesize": "much"}, "'much' is not a preset"),
    ],
)
def test_recipe_that_cannot_run_is_rejected_in_one_sentence(changes, sentence, tmp_path):
    config = experiment.get_config("tiny")
    (tmp_path / "config.json").write_text("{}")
    config.base = str(tmp_path)
    config.update(changes)
    with pytest.raises(UserError, match=sentence):
        Recipe(config, ROOT / "experiments", tmp_path).check()


def start(workdir: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "ivx", "recipe", "--config=recipe:quick"]
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
    """The stages that a recipe printed, without times."""
    out, _ = process.communicate(timeout=1500)
    assert process.returncode == 0
    stages = json.loads(out.splitlines()[-1])["stages"]
    clocks_and_paths = ("seconds", "resumed", "origin")
    return [{k: v for k, v in row.items() if k not in clocks_and_paths} for row in stages]


@pytest.mark.slow
def test_recipe_killed_in_every_stage_ends_with_same_table(tmp_path):
    """SIGKILL in each stage that trains, including rollouts, then the same command again."""
    uninterrupted = table(start(tmp_path / "whole"))
    workdir = tmp_path / "killed"
    for stage in ("convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd", "agent"):
        process = start(workdir)
        folder = workdir / stage
        while not folder.is_dir() or not any(folder.iterdir()):
            assert process.poll() is None, f"the recipe ended before {stage}"
            time.sleep(0.2)
        time.sleep(12)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = table(start(workdir))
    assert killed == uninterrupted
