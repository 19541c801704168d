"""`python -m benchmarks`: everything runs at a tiny size; no test depends on timing."""

import os
import types

import jax
import numpy as np
import pytest

from benchmarks import accelerator, kernels, model, timing
from benchmarks.decode import compare, videos
from benchmarks.train import compare as train
from ivx.errors import UserError
from ivx.kernels.latent_attention import latent_attention
from ivx.models.definition import ModelDefinition


def flags(**options) -> types.SimpleNamespace:
    usual = {"peer": None, "size": "tiny", "prompt_tokens": 16, "new_tokens": 3}
    usual |= {
        "quick": True,
        "peers": "/nowhere/python",
        "clips": None,
        "counts": None,
        "only": None,
    }
    return types.SimpleNamespace(**usual | {"threads": 0, "repeats": 2} | options)


def test_model_benchmark_times_prefill_and_decode(capsys):
    result = model.run(flags())
    rows = {(row["name"], row["attention"], row["phase"]): row for row in result["rows"]}
    assert set(rows) == {
        ("ivx", attention, phase) for attention in ("gqa", "m2la") for phase in model.TARGETS
    }
    assert all(len(row["seconds"]) == 2 for row in result["rows"])
    assert result["machine"]["jax"] and len(result["load"]) == 2
    printed = capsys.readouterr().out
    assert "tokens/s" in printed and "load" in printed


def test_model_benchmark_compares_answers_with_transformers():
    """It refuses to time a peer that gives another answer."""
    pytest.importorskip("transformers")
    result = model.run(flags(peer="transformers"))
    assert set(result["ratios"]) == {"prefill", "decode"}
    assert {row["name"] for row in result["rows"]} == {"ivx", "transformers"}


def test_benchmark_model_has_about_64_million_parameters():
    definition = ModelDefinition(model.spec("64m", "gqa"))
    count = sum(leaf.size for leaf in jax.tree.leaves(definition.abstract_params))
    assert 60e6 < count < 68e6
    text = model.spec("64m", "m2la").text
    assert text.kv_rank + text.head_dim == text.kv_heads * text.head_dim


def test_contestants_take_turns_after_a_warm_up():
    turns = []
    works = {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}
    times = timing.take_turns(works, repeats=2)
    assert turns == ["a", "b"] * 3
    assert [len(times[name].turns) for name in works] == [2, 2]
    assert timing.Times((3.0, 1.0, 2.0)).median == 2.0


def test_decode_benchmark_reads_the_requested_frames(tmp_path, monkeypatch, capsys):
    """ivx runs in a process of its own, also on a file that repeats another; peers are absent."""
    clips = (videos.Clip(3, 30), videos.Clip(6, 30, copies=2))
    monkeypatch.setattr(compare, "QUICK_CLIPS", clips)
    result = compare.run(flags(videos=str(tmp_path), counts=["5", "0"]))
    rows = {(row["clip"], row["count"], row["name"]): row for row in result["rows"]}
    assert {name for _, _, name in rows} == set(compare.OURS)
    for (clip, count, name), row in rows.items():
        frames = {"3s_gop30": 90, "6s_gop30": 180}[clip] if count == 0 else count
        assert row["frames"] == frames
        assert row["exact"] == (0 if name == "raw" else frames), (clip, count, name)
    assert result["wrong_frames"] == 0
    assert set(result["absent"]) == {*compare.FRAME_PEERS, *compare.PATCH_PEERS}
    printed = capsys.readouterr().out
    assert "absent: decord: no Python at /nowhere/python" in printed and "CPU s" in printed
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"] * 2


def test_unknown_names_and_too_many_threads_are_rejected(tmp_path):
    for option in ({"clips": ["1s"]}, {"counts": ["x"]}, {"counts": ["-1"]}, {"only": ["x"]}):
        with pytest.raises(UserError, match=f"--{next(iter(option))}"):
            compare.run(flags(videos=str(tmp_path), **option))
    many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(UserError, match="cores; give at most as many"):
        model.run(flags(threads=many))


def test_kernel_benchmark_times_latent_attention_and_its_alternatives(capsys):
    options = flags(
        layer="tiny", dtype="bfloat16", contexts=["64"], rows=["1", "3"], prefills=["48"]
    )
    result = kernels.run(options)
    assert [(row["phase"], row["tokens"], row["rows"]) for row in result["rows"]] == [
        ("decode", 64, 1),
        ("decode", 64, 3),
        ("prefill", 48, 1),
    ]
    latent, grouped = result["rows"][-2]["contestants"]
    # As in the release, latents take half the cache of grouped attention.
    spec = kernels.text_spec("tiny", "m2la")
    assert latent["cache_bytes"] == 3 * 64 * 2 * (spec.kv_rank + spec.head_dim)
    assert 2 * latent["cache_bytes"] == grouped["cache_bytes"]
    assert all(len(row["seconds"]) == 2 for row in result["rows"][0]["contestants"])
    # The bandwidth of a CPU's memory is not known.
    assert result["bandwidth"] is None and latent["bandwidth_share"] is None
    printed = capsys.readouterr().out
    assert "device cpu" in printed and "bfloat16, xla path" in printed
    assert "times as fast" in printed


def test_decode_step_is_compared_with_the_memory_bandwidth(monkeypatch):
    monkeypatch.setattr(accelerator, "name", lambda: "NVIDIA H100 80GB HBM3")
    assert accelerator.bandwidth() == 3.35e12
    monkeypatch.setattr(accelerator, "name", lambda: "TPU v5p")
    assert accelerator.bandwidth() == 2765e9
    monkeypatch.setattr(accelerator, "bandwidth", lambda: 1e9)
    options = flags(layer="tiny", dtype="float32", contexts=["64"], rows=["1"], prefills=[])
    [row] = kernels.run(options)["rows"]
    spec = kernels.text_spec("tiny", "m2la")
    wide = 2 * spec.heads * spec.head_dim
    cached = spec.kv_rank + spec.head_dim
    weights = (spec.width + 1) * (wide + cached) + spec.kv_rank * wide + wide // 2 * spec.width
    latent, _ = row["contestants"]
    shortest = 4 * (weights + 64 * cached) / 1e9
    measured = 1e-3 * latent["median_ms"]
    assert latent["bandwidth_share"] == pytest.approx(shortest / measured, rel=0.05, abs=1e-3)


def test_accelerator_is_timed_by_a_queue_of_calls(monkeypatch):
    calls = []

    def work():
        calls.append(1)
        return jax.numpy.zeros(1)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    times = accelerator.take_turns({"one": work}, repeats=2)
    # A warm-up turn and two timed ones.
    assert len(calls) == 3 * 20 and len(times["one"].turns) == 2


def test_materialised_heads_equal_latent_attention():
    shapes = [(1, 24, 4, 16), (1, 24, 4, 16), (1, 24, 32), (1, 24, 16), (32, 4, 32)]
    keys = jax.random.split(jax.random.key(1), len(shapes))
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    ours = latent_attention(*arrays, jax.numpy.ones((1, 24), jax.numpy.int32))
    np.testing.assert_allclose(kernels.materialised(*arrays), ours, rtol=1e-4, atol=1e-4)


def test_train_benchmark_times_both_kinds_of_attention(capsys):
    result = train.run(flags(train_samples=4, train_frames=2, train_words=8))
    assert {(row["name"], row["attention"]) for row in result["rows"]} == {
        ("ivx", "gqa"),
        ("ivx", "m2la"),
    }
    assert result["frames_a_step"] == 8 and result["tokens_a_step"] > 4 * 8
    assert [len(row["seconds"]) for row in result["rows"]] == [2, 2]
    assert "ratio" not in result and "tokens/s" in capsys.readouterr().out


def test_train_benchmark_compares_losses_with_transformers():
    """It refuses to time a peer whose losses differ."""
    pytest.importorskip("transformers")
    sizes = {"train_samples": 2, "train_frames": 4, "train_words": 16}
    result = train.run(flags(peer="transformers", **sizes))
    rows = [row for row in result["rows"] if row["attention"] == "gqa"]
    parameters = {row["name"]: row["parameters"] for row in rows}
    assert parameters["ivx"] == parameters["transformers"] and result["ratio"] > 0
