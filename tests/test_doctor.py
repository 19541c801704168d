"""`ivx doctor`: lists the arrays of a checkpoint, and locates values that are not finite."""

import types

import jax
import numpy as np
import pytest

from ivx import config, from_config
from ivx import workdir as workdirs
from ivx.commands import doctor
from ivx.errors import UserError
from ivx.evaluation import parameter_summary
from ivx.hf import processor, write
from ivx.text import compact_tokenizer
from ivx.training.checkpoints import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A new run of the tiny preset, and its parameters."""
    folder = tmp_path_factory.mktemp("doctor")
    mine = config.base()
    workdirs.claim(folder, mine)
    params = from_config.model.definition(mine).init(0)
    checkpoint.save_params(folder, params, config.snapshot(mine))
    return folder, params


def test_doctor_counts_every_array(run, capsys):
    folder, params = run
    result = doctor.examine(from_config.stored_model.open_model(folder))
    assert result["ok"]
    leaves = {leaf["path"]: leaf for leaf in result["leaves"]}
    assert len(leaves) == len(jax.tree.leaves(params))
    gate = np.asarray(params["language_model"]["layers"]["mlp"]["gate_proj"]["kernel"])
    found = leaves["language_model.layers.mlp.gate_proj.kernel"]
    assert found["shape"] == gate.shape and found["type"] == "float32"
    assert found["norm"] == pytest.approx(float(np.linalg.norm(gate.astype(np.float64))))
    assert found["largest"] == pytest.approx(float(np.abs(gate).max()))
    total = result["totals"][-1]
    assert total["path"] == "all"
    assert total["count"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    parts = [total["path"] for total in result["totals"]]
    assert set(parts) == {"embed_tokens", "language_model", "lm_head", "visual", "all"}
    printed = capsys.readouterr().out
    assert "all numbers are finite" in printed and "m2la" in printed
    assert all(path in printed for path in leaves)


def test_hugging_face_folder_shows_stored_dtypes(run, tmp_path):
    folder, params = run
    definition = from_config.stored_model.open_model(folder).definition
    rules = processor.FrameRules()
    write.export(tmp_path / "hf", definition, params, compact_tokenizer.PATH, rules, {})
    result = doctor.examine(from_config.stored_model.open_model(tmp_path / "hf"))
    assert {leaf["type"] for leaf in result["leaves"]} == {"BF16"}
    assert "Hugging Face" in result["facts"]["folder"]


def test_non_finite_values_are_located(run, tmp_path, capsys):
    _, params = run
    broken = jax.tree.map(np.array, params)
    broken["language_model"]["layers"]["mlp"]["up_proj"]["kernel"][2, 5, 7] = np.nan
    broken["lm_head"]["kernel"][3, :2] = np.inf
    mine = config.base()
    workdirs.claim(tmp_path, mine)
    checkpoint.save_params(tmp_path, broken, config.snapshot(mine))
    result = doctor.examine(from_config.stored_model.open_model(tmp_path))
    assert not result["ok"] and result["totals"][-1]["broken"] == 3
    broken_leaves = {leaf["path"]: leaf for leaf in result["leaves"] if leaf["broken"]}
    assert broken_leaves["language_model.layers.mlp.up_proj.kernel"]["layers"] == (2,)
    assert (
        broken_leaves["lm_head.kernel"]["layers"] == ()
        and broken_leaves["lm_head.kernel"]["broken"] == 2
    )
    assert all(np.isfinite(leaf["norm"]) for leaf in result["leaves"])
    printed = capsys.readouterr().out
    assert "1 not finite in layers 2" in printed and "3 numbers are not finite" in printed


def test_norm_of_all_combines_norms_of_parts():
    leaves = parameter_summary.summarize(
        {"a": {"x": np.full(9, 2.0), "y": np.zeros(2)}, "b": np.full(16, -2.0)}
    )
    totals = {total.path: total for total in parameter_summary.totals(leaves)}
    assert totals["a"].norm == pytest.approx(6.0) and totals["b"].norm == pytest.approx(8.0)
    assert totals["all"].norm == pytest.approx(10.0)
    assert (totals["all"].count, totals["all"].largest) == (27, 2.0)


def test_bad_input_is_rejected(tmp_path):
    for words, sentence in (
        (["a", "b"], "2 folders were given"),
        ([str(tmp_path)], "is not a workdir"),
    ):
        with pytest.raises(UserError, match=sentence):
            doctor.run(types.SimpleNamespace(), words)


def test_workdir_without_checkpoint_is_rejected(tmp_path):
    workdirs.claim(tmp_path, config.base())
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        doctor.run(types.SimpleNamespace(ignore_memory_forecast=False), [str(tmp_path)])
