"""`ivx bench`: everything runs at a tiny size; no test asks how long it took."""

import os
import types

import jax
import numpy as np
import pytest

from ivx.commands import bench
from ivx.commands.bench import accelerator, decode, decode_videos, kernels, model, timing
from ivx.errors import UserError
from ivx.kernels.latent_attention import latent_attention
from ivx.models.definition import ModelDefinition


def given(**options) -> types.SimpleNamespace:
    usual = {"peer": None, "size": "tiny", "prompt_tokens": 16, "new_tokens": 3}
    usual |= {
        "quick": True,
        "peers": "/nowhere/python",
        "clips": None,
        "counts": None,
        "only": None,
    }
    return types.SimpleNamespace(**usual | {"threads": 0, "repeats": 2} | options)


def test_the_model_is_timed(capsys):
    result = bench.run(given(), ["model"])
    rows = {(row["name"], row["attention"], row["phase"]): row for row in result["rows"]}
    assert set(rows) == {
        ("ivx", attention, phase) for attention in ("gqa", "m2la") for phase in model.TARGETS
    }
    assert all(len(row["seconds"]) == 2 for row in result["rows"])
    assert result["machine"]["jax"] and len(result["load"]) == 2
    printed = capsys.readouterr().out
    assert "tokens/s" in printed and "load" in printed


def test_beside_transformers_both_answer_the_same():
    """The bench refuses to time a peer that answers otherwise."""
    pytest.importorskip("transformers")
    result = bench.run(given(peer="transformers"), ["model"])
    assert set(result["ratios"]) == {"prefill", "decode"}
    assert {row["name"] for row in result["rows"]} == {"ivx", "transformers"}


def test_the_bench_has_about_64_million_parameters():
    definition = ModelDefinition(model.spec("64m", "gqa"))
    count = sum(leaf.size for leaf in jax.tree.leaves(definition.abstract_params))
    assert 60e6 < count < 68e6
    text = model.spec("64m", "m2la").text
    assert text.kv_rank + text.head_dim == text.kv_heads * text.head_dim


def test_contestants_take_turns_and_the_first_does_not_count():
    turns = []
    works = {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}
    times = timing.take_turns(works, repeats=2)
    assert turns == ["a", "b"] * 3
    assert [len(times[name].turns) for name in works] == [2, 2]
    assert timing.Times((3.0, 1.0, 2.0)).median == 2.0


def test_every_frame_that_the_bench_reads_is_the_wanted_one(tmp_path, monkeypatch, capsys):
    """Ours runs as a process of its own, in whole groups and in a copied file; peers are absent."""
    clips = (decode_videos.Clip(3, 30), decode_videos.Clip(6, 30, copies=2))
    monkeypatch.setattr(decode, "QUICK_CLIPS", clips)
    result = bench.run(given(videos=str(tmp_path), counts=["5", "0"]), ["decode"])
    rows = {(row["clip"], row["count"], row["name"]): row for row in result["rows"]}
    assert {name for _, _, name in rows} == set(decode.OURS)
    for (clip, count, name), row in rows.items():
        frames = {"3s_gop30": 90, "6s_gop30": 180}[clip] if count == 0 else count
        assert row["frames"] == frames
        assert row["exact"] == (0 if name == "raw" else frames), (clip, count, name)
    assert result["wrong_frames"] == 0
    assert set(result["absent"]) == {*decode.FRAME_PEERS, *decode.PATCH_PEERS}
    printed = capsys.readouterr().out
    assert "absent: decord: no Python at /nowhere/python" in printed and "CPU s" in printed
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"] * 2


def test_bad_input_is_refused(tmp_path):
    for words in ([], ["speed"], ["model", "model"]):
        with pytest.raises(UserError, match="ivx bench knows model, "):
            bench.run(given(), words)
    for option in ({"clips": ["1s"]}, {"counts": ["x"]}, {"counts": ["-1"]}, {"only": ["x"]}):
        with pytest.raises(UserError, match=f"--{next(iter(option))}"):
            bench.run(given(videos=str(tmp_path), **option), ["decode"])
    many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(UserError, match="cores; give at most as many"):
        bench.run(given(threads=many), ["model"])


def test_kernels_are_timed_beside_grouped_attention_and_materialised_heads(capsys):
    asked = given(layer="tiny", dtype="bfloat16", contexts=["64"], rows=["1", "3"], prefills=["48"])
    result = bench.run(asked, ["kernels"])
    assert [(row["phase"], row["tokens"], row["rows"]) for row in result["rows"]] == [
        ("decode", 64, 1),
        ("decode", 64, 3),
        ("prefill", 48, 1),
    ]
    latent, grouped = result["rows"][-2]["contestants"]
    # As in the release, latents are half of what grouped attention keeps.
    spec = kernels.text_spec("tiny", "m2la")
    assert latent["cache_bytes"] == 3 * 64 * 2 * (spec.kv_rank + spec.head_dim)
    assert 2 * latent["cache_bytes"] == grouped["cache_bytes"]
    assert all(len(one["seconds"]) == 2 for one in result["rows"][0]["contestants"])
    # Nobody publishes how fast this memory is.
    assert result["bandwidth"] is None and latent["bandwidth_share"] is None
    printed = capsys.readouterr().out
    assert "device cpu" in printed and "bfloat16, by the xla path" in printed
    assert "times as fast" in printed


def test_a_step_is_held_against_the_memory_that_it_reads(monkeypatch):
    monkeypatch.setattr(accelerator, "name", lambda: "NVIDIA H100 80GB HBM3")
    assert accelerator.bandwidth() == 3.35e12
    monkeypatch.setattr(accelerator, "name", lambda: "TPU v5p")
    assert accelerator.bandwidth() == 2765e9
    monkeypatch.setattr(accelerator, "bandwidth", lambda: 1e9)
    asked = given(layer="tiny", dtype="float32", contexts=["64"], rows=["1"], prefills=[])
    [row] = bench.run(asked, ["kernels"])["rows"]
    spec = kernels.text_spec("tiny", "m2la")
    wide = 2 * spec.heads * spec.head_dim
    kept = spec.kv_rank + spec.head_dim
    weights = (spec.width + 1) * (wide + kept) + spec.kv_rank * wide + wide // 2 * spec.width
    latent, _ = row["contestants"]
    shortest = 4 * (weights + 64 * kept) / 1e9
    measured = 1e-3 * latent["median_ms"]
    assert latent["bandwidth_share"] == pytest.approx(shortest / measured, rel=0.05, abs=1e-3)


def test_an_accelerator_is_timed_by_a_queue_of_calls(monkeypatch):
    calls = []

    def work():
        calls.append(1)
        return jax.numpy.zeros(1)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    times = accelerator.take_turns({"one": work}, repeats=2)
    # A turn that does not count before two that do.
    assert len(calls) == 3 * 20 and len(times["one"].turns) == 2


def test_materialised_heads_say_what_latent_attention_says():
    shapes = [(1, 24, 4, 16), (1, 24, 4, 16), (1, 24, 32), (1, 24, 16), (32, 4, 32)]
    keys = jax.random.split(jax.random.key(1), len(shapes))
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    ours = latent_attention(*arrays, np.ones((1, 24), np.int32))
    np.testing.assert_allclose(kernels.materialised(*arrays), ours, rtol=1e-4, atol=1e-4)


def test_training_is_timed(capsys):
    result = bench.run(given(train_samples=4, train_frames=2, train_words=8), ["train"])
    assert {(row["name"], row["attention"]) for row in result["rows"]} == {
        ("ivx", "gqa"),
        ("ivx", "m2la"),
    }
    assert result["frames_a_step"] == 8 and result["tokens_a_step"] > 4 * 8
    assert [len(row["seconds"]) for row in result["rows"]] == [2, 2]
    assert "ratio" not in result and "tokens/s" in capsys.readouterr().out


def test_beside_transformers_both_learn_the_same():
    """The bench refuses to time a peer whose losses are others."""
    pytest.importorskip("transformers")
    sizes = {"train_samples": 2, "train_frames": 4, "train_words": 16}
    result = bench.run(given(peer="transformers", **sizes), ["train"])
    rows = [row for row in result["rows"] if row["attention"] == "gqa"]
    parameters = {row["name"]: row["parameters"] for row in rows}
    assert parameters["ivx"] == parameters["transformers"] and result["ratio"] > 0
