"""`ivx doctor`: what a checkpoint holds, and that a number which is none is found and placed."""

import types

import jax
import numpy as np
import pytest

from ivx import build, config
from ivx.build import stored
from ivx.commands import doctor
from ivx.errors import UserError
from ivx.evaluation import census
from ivx.hf import processor, write
from ivx.text import compact_tokenizer
from ivx.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the tiny preset that has just begun, and its parameters."""
    folder = tmp_path_factory.mktemp("doctor")
    mine = config.base()
    config.claim_workdir(folder, mine)
    params = build.model_definition(mine).init(0)
    checkpoint.save_params(folder, params, config.snapshot(mine))
    return folder, params


def test_every_array_is_counted(run, capsys):
    folder, params = run
    result = doctor.examine(stored.open_model(folder))
    assert result["ok"]
    leaves = {leaf["path"]: leaf for leaf in result["leaves"]}
    assert len(leaves) == len(jax.tree.leaves(params))
    gate = np.asarray(params["language_model"]["layers"]["mlp"]["gate_proj"]["kernel"])
    found = leaves["language_model.layers.mlp.gate_proj.kernel"]
    assert found["shape"] == gate.shape and found["type"] == "float32"
    assert found["norm"] == pytest.approx(float(np.linalg.norm(gate.astype(np.float64))))
    assert found["largest"] == pytest.approx(float(np.abs(gate).max()))
    whole = result["totals"][-1]
    assert whole["path"] == "all"
    assert whole["count"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    parts = [total["path"] for total in result["totals"]]
    assert set(parts) == {"embed_tokens", "language_model", "lm_head", "visual", "all"}
    printed = capsys.readouterr().out
    assert "all numbers are finite" in printed and "m2la" in printed
    assert all(path in printed for path in leaves)


def test_a_folder_tells_how_its_weights_are_stored(run, tmp_path):
    folder, params = run
    definition = stored.open_model(folder).definition
    rules = processor.FrameRules()
    write.export(tmp_path / "hf", definition, params, compact_tokenizer.PATH, rules, {})
    result = doctor.examine(stored.open_model(tmp_path / "hf"))
    assert {leaf["type"] for leaf in result["leaves"]} == {"BF16"}
    assert "Hugging Face" in result["facts"]["folder"]


def test_what_is_not_finite_is_placed(run, tmp_path, capsys):
    _, params = run
    broken = jax.tree.map(np.array, params)
    broken["language_model"]["layers"]["mlp"]["up_proj"]["kernel"][2, 5, 7] = np.nan
    broken["lm_head"]["kernel"][3, :2] = np.inf
    mine = config.base()
    config.claim_workdir(tmp_path, mine)
    checkpoint.save_params(tmp_path, broken, config.snapshot(mine))
    result = doctor.examine(stored.open_model(tmp_path))
    assert not result["ok"] and result["totals"][-1]["broken"] == 3
    wrong = {leaf["path"]: leaf for leaf in result["leaves"] if leaf["broken"]}
    assert wrong["language_model.layers.mlp.up_proj.kernel"]["layers"] == (2,)
    assert wrong["lm_head.kernel"]["layers"] == () and wrong["lm_head.kernel"]["broken"] == 2
    assert all(np.isfinite(leaf["norm"]) for leaf in result["leaves"])
    printed = capsys.readouterr().out
    assert "1 not finite in layers 2" in printed and "3 numbers are not finite" in printed


def test_norms_of_parts_make_up_that_of_the_whole():
    leaves = census.take({"a": {"x": np.full(9, 2.0), "y": np.zeros(2)}, "b": np.full(16, -2.0)})
    totals = {total.path: total for total in census.totals(leaves)}
    assert totals["a"].norm == pytest.approx(6.0) and totals["b"].norm == pytest.approx(8.0)
    assert totals["all"].norm == pytest.approx(10.0)
    assert (totals["all"].count, totals["all"].largest) == (27, 2.0)


def test_bad_input_is_refused(tmp_path):
    for words, sentence in (
        (["a", "b"], "2 folders were given"),
        ([str(tmp_path)], "is not a workdir"),
    ):
        with pytest.raises(UserError, match=sentence):
            doctor.run(types.SimpleNamespace(), words)


def test_a_workdir_without_a_checkpoint_is_refused(tmp_path):
    config.claim_workdir(tmp_path, config.base())
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        doctor.run(types.SimpleNamespace(), [str(tmp_path)])
