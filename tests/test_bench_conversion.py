"""`python -m benchmarks conversion`: its tables, and a tiny run that is continued."""

import json
import types

import pytest

from benchmarks.conversion import conversion_page, healing, measure
from ivx.errors import UserError
from tests.conftest import ROOT


def row(method: str, share: float, words: float, **more) -> dict:
    return {"method": method, "share": share, "words": words, "loss": 1 + words} | more


def test_page_has_a_column_per_cache_size_and_a_row_per_method():
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
def test_cache_share_determines_the_rank(share, rank):
    assert measure.rank_of(types.SimpleNamespace(kv_heads=3, head_dim=32), share) == rank


def test_healing_ends_at_the_first_loss_below_the_goal():
    losses = [(0, 0.9), (5, 0.31), (10, 0.3), (12, 0.2)]
    assert [healing.reached(losses, goal) for goal in (1.0, 0.3, 0.25, 0.1)] == [
        0,
        10,
        12,
        None,
    ]


@pytest.mark.parametrize(("flag", "name"), [("methods", "exact"), ("shares", "0.6")])
def test_unknown_method_or_share_is_rejected_with_the_known_ones(flag, name, tmp_path):
    options = {"out": str(tmp_path), "methods": [], "shares": []} | {flag: [name]}
    with pytest.raises(UserError, match=rf"--{flag}: unknown name '{name}'; choose from .*, "):
        measure.run(types.SimpleNamespace(**options))


EXPERIMENT = """
from experiments import convert

def get_config(preset):
    config = convert.get_config(preset)
    # One pack for each of the test devices, and two steps of matching.
    config.data.batch_packs = 8
    config.run.update(steps=2, save_every=1)
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "after", "most"),
    [("exact norm", "layers_latent", 0.1), ("output weighting and matched", "layers_matched", 3.0)],
)
def test_interrupted_benchmark_continues(data_folder, tmp_path, monkeypatch, method, after, most):
    monkeypatch.setattr(measure, "BALANCES", (1.0,))
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    options = types.SimpleNamespace(
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
    [source, row] = measure.run(options)["rows"]
    assert source["words"] == pytest.approx(0, abs=1e-5)
    assert row["words"] < most and len(row[after]) == 4
    # Until the loss is reached, or for the maximum of two steps.
    assert row["healing"][0][0] == 0 and row["healing"][-1][0] == (
        2 if row["steps"] is None else row["steps"]
    )
    written = (tmp_path / "rows.jsonl").read_text()
    assert [json.loads(line)["method"] for line in written.splitlines()] == ["source", method]
    measure.run(options)
    assert (tmp_path / "rows.jsonl").read_text() == written
    assert f"| {method} |" in (tmp_path / "report.md").read_text()
    # A lost row is computed again from the stored matching run.
    (tmp_path / "rows.jsonl").write_text(written.splitlines()[0] + "\n")
    again = measure.run(options)["rows"][1]
    assert again["words"] == pytest.approx(row["words"], rel=1e-4)
