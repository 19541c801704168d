"""`ivx bench conversion`: its tables, and a run of it at tiny size that goes on where it was."""

import json
import types

import pytest

from ivx.commands.bench import conversion, conversion_healing, conversion_page
from ivx.errors import UserError
from tests.conftest import ROOT


def row(method: str, share: float, words: float, **more) -> dict:
    return {"method": method, "share": share, "words": words, "loss": 1 + words} | more


def test_the_page_has_a_column_for_each_size_and_a_row_for_each_method():
    healed = {"accuracy": 0.5, "balance": 2.0, "ranks": [64, 32], "layers_latent": [0.1, 0.2]}
    rows = [
        row("source", 1.0, 0.0, accuracy=0.9, steps=0),
        row("one way", 0.5, 0.4, steps=None, **healed),
        row("another", 0.5, 0.1, steps=5, **healed | {"ranks": [48, 48]}),
        row("one way", 0.75, 0.2),
    ]
    lines = conversion_page.page(rows, "base", 1234).splitlines()
    assert "Source: `base`, loss 1.0000, accuracy 90.0%; 1,234 calibration tokens." in lines
    assert "| | 75.0% of the cache | 50.0% of the cache |" in lines
    assert "| one way | 0.20000 | 0.40000 |" in lines and "| another |  | 0.10000 |" in lines
    assert "| one way | 50.0% | not reached | 2 | 64 32 |" in lines
    assert "| another | 50.0% | 5 | 2 | 48 |" in lines
    assert "| one way, latent | 0.1000 | 0.2000 |" in lines


@pytest.mark.parametrize(("share", "rank"), [(1.0, 160), (0.75, 112), (0.5, 64), (0.375, 40)])
def test_a_share_of_the_cache_is_a_rank(share, rank):
    assert conversion.rank_of(types.SimpleNamespace(kv_heads=3, head_dim=32), share) == rank


def test_a_model_is_healed_at_the_first_loss_that_is_low_enough():
    losses = [(0, 0.9), (5, 0.31), (10, 0.3), (12, 0.2)]
    assert [conversion_healing.reached(losses, goal) for goal in (1.0, 0.3, 0.25, 0.1)] == [
        0,
        10,
        12,
        None,
    ]


@pytest.mark.parametrize(("flag", "name"), [("methods", "exact"), ("shares", "0.6")])
def test_a_row_that_is_not_known_is_an_error_that_names_those_that_are(flag, name, tmp_path):
    given = {"out": str(tmp_path), "methods": [], "shares": []} | {flag: [name]}
    with pytest.raises(UserError, match=rf"--{flag}: there is no '{name}'; there are .*, "):
        conversion.run(types.SimpleNamespace(**given))


EXPERIMENT = """
from experiments import convert

def get_config(preset):
    config = convert.get_config(preset)
    # A pack for each of the devices that tests have, and two steps of matching.
    config.data.batch_packs = 8
    config.run.update(steps=2, save_every=1)
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "after", "most"),
    [("exact norm", "layers_latent", 0.1), ("output weighting and matched", "layers_matched", 3.0)],
)
def test_a_bench_goes_on_where_it_stopped(data_folder, tmp_path, monkeypatch, method, after, most):
    monkeypatch.setattr(conversion, "BALANCES", (1.0,))
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    given = types.SimpleNamespace(
        base=str(ROOT / "assets/tiny-base"),
        experiment=f"{experiment}:tiny",
        mixture=str(data_folder / "data.json"),
        out=str(tmp_path),
        methods=[method],
        shares=["0.5"],
        packs=24,
        questions=4,
        heal=2,
    )
    [source, row] = conversion.run(given)["rows"]
    assert source["words"] == pytest.approx(0, abs=1e-5)
    assert row["words"] < most and len(row[after]) == 4
    # Until it is healed, or for the two steps that it may take.
    assert row["healing"][0][0] == 0 and row["healing"][-1][0] == (
        2 if row["steps"] is None else row["steps"]
    )
    written = (tmp_path / "rows.jsonl").read_text()
    assert [json.loads(line)["method"] for line in written.splitlines()] == ["source", method]
    conversion.run(given)
    assert (tmp_path / "rows.jsonl").read_text() == written
    assert f"| {method} |" in (tmp_path / "report.md").read_text()
    # A row that is lost is made again, of the matching that is kept.
    (tmp_path / "rows.jsonl").write_text(written.splitlines()[0] + "\n")
    again = conversion.run(given)["rows"][1]
    assert again["words"] == pytest.approx(row["words"], rel=1e-4)
