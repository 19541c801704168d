"""Pages of runs, episodes and recipes: no tags, control characters or absolute paths from data."""

import dataclasses
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivx.agent import context
from ivx.evaluation import scoring, store
from ivx.evaluation.scoring import Prediction
from ivx.reporting import page, paths, template, trace_page
from ivx.reporting.recipe import page as recipe_page
from ivx.reporting.recipe.record import StageRecord
from tests.agent_script import FOOTAGE, Script, search
from tests.test_printable import CONTROLS, has_controls

HOSTILE = "<script>x</script>" + "".join(CONTROLS)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A workdir with hostile names, questions and answers."""
    workdir = tmp_path / "here" / "run"
    truth = {"format": "open", "answer": HOSTILE, "values": ["a"]}
    video = str(tmp_path / "elsewhere" / f"{HOSTILE.replace('/', '')}.mp4")
    answers = [Prediction("a", f"$\\frac{HOSTILE}", HOSTILE, truth, video, HOSTILE)]
    store.save(workdir, "set", answers, scoring.table(answers), ())
    config = {
        "data": {"mixture": str(tmp_path / "here" / "data" / "data.json"), "train": [HOSTILE]},
        "run": {"start": str(tmp_path / "elsewhere" / "base")},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    rows = [{"step": step, f"grad/$x{HOSTILE}": step + 1.0, "loss/total": 2.0} for step in (1, 2)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def check(text: str, root: pathlib.Path) -> None:
    assert "<script>" not in text and not has_controls(text) and str(root) not in text


def test_report_of_hostile_data_is_harmless(run: pathlib.Path, tmp_path: pathlib.Path):
    text = page.write(run, {"data": HOSTILE}).read_text(encoding="utf-8")
    check(text, tmp_path)
    assert "../data/data.json" in text and "&#34;start&#34;: &#34;base&#34;" in text


def test_trace_page_of_hostile_data_is_harmless(tmp_path: pathlib.Path):
    from ivx.agent import loop

    script = Script(search(HOSTILE.replace("\ud800", "")), "done")
    video = str(tmp_path / f"{HOSTILE.replace('/', '')}.mp4")
    budget = loop.Budget(steps=2)
    episode = loop.run(script, FOOTAGE, HOSTILE, budget=budget, video=video)
    assert isinstance(episode.answer, context.Answer)
    check(trace_page.write(tmp_path, episode).read_text(encoding="utf-8"), tmp_path)


def test_recipe_page_of_hostile_data_is_harmless(run: pathlib.Path, tmp_path: pathlib.Path):
    answers, rows, _ = store.load(run / "evaluation" / "set")
    stages = []
    for name, score in (("base", 0.0), ("cpt", 1.0)):
        store.save(run / name, "set", answers, rows, ())
        scored = [dataclasses.asdict(dataclasses.replace(row, score=score)) for row in rows]
        stages.append(StageRecord(name, "0", 1.0, False, 1, 1, {}, 0.5, {"set": scored}))
    check(recipe_page.write(run, stages, None, []).read_text(encoding="utf-8"), tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*CONTROLS, "<", ">", "&", '"', "'"]) | st.characters()))
def test_text_on_a_page_adds_no_tag_and_no_control_character(parts: list[str]):
    shown = str(template.ENVIRONMENT.from_string("{{ text }}").render(text="".join(parts)))
    assert not has_controls(shown) and not set("<>\"'") & set(shown)


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("/home/a/b.mp4: no such file", "b.mp4: no such file"),
        ("data.json: '/home/my clips/b.mp4' is empty", "data.json: 'my clips/b.mp4' is empty"),
        ("start=/srv/run (of file:///srv/x.json)", "start=run (of x.json)"),
        ("clips/b.mp4 of gs://bucket/b.mp4, 3/4 and/or https://a.b/c", None),
    ],
)
def test_sentences_on_a_page_have_no_absolute_paths(sentence: str, shown: str | None):
    assert paths.without_folders(sentence) == (sentence if shown is None else shown)


def test_paths_beside_a_page_are_relative(tmp_path: pathlib.Path):
    folder = tmp_path / "run"
    assert paths.relative(str(tmp_path / "data" / "a.json"), folder) == "../data/a.json"
    assert paths.relative(str(folder / "a.json"), folder) == "a.json"
    assert paths.relative("/somewhere/else/a.json", folder) == "a.json"
    assert paths.relative("gs://bucket/a", folder) == "gs://bucket/a"
