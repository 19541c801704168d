"""`ivx verify`: equal models agree; otherwise the first part that differs is named."""

import dataclasses
import json
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from ivx import cli, config, from_config
from ivx import workdir as workdirs
from ivx.commands import table, verify
from ivx.errors import UserError
from ivx.evaluation import activations, agreement, probes
from ivx.evaluation.agreement import LOGITS, Outputs
from ivx.hf import names, processor, write
from ivx.models.definition import ModelDefinition
from ivx.text import compact_tokenizer, tokenizer
from ivx.training.checkpoints import checkpoint
from tests.conftest import small_spec


@pytest.fixture(scope="module")
def prompts(rule):
    """Layouts and pixels of the built-in prompts."""
    layouts = probes.lay_out(probes.built_in(), rule)
    return layouts, probes.read(layouts)


@pytest.fixture(scope="module")
def small() -> tuple:
    """A small model and its parameters."""
    definition = ModelDefinition(small_spec("m2la"))
    return activations.ActivationRecorder(definition, tokenizer.load("compact")), definition.init(0)


def observe_all(observer, params, prompts) -> list[Outputs]:
    return observer(params, *prompts, limit=2)


@pytest.fixture(scope="module")
def baseline(small, prompts) -> list[Outputs]:
    """The outputs of the small model."""
    return observe_all(*small, prompts)


def compared(first, second) -> agreement.Agreement:
    return agreement.compare(list(probes.built_in()), first, second)


def scaled(params, path: str, layer=None) -> dict:
    """The parameters with one array, or one of its layers, scaled by 1.1."""
    params = jax.tree.map(np.array, params)
    *keys, last = path.split(".")
    tree = params
    for key in keys:
        tree = tree[key]
    tree[last][... if layer is None else layer] *= 1.1
    return params


def test_built_in_prompts_need_no_files(prompts):
    layouts, pixels = prompts
    assert [len(layout.clips) for layout in layouts] == [0, 0, 1, 2, 1, 4]
    assert [clip.still for clip in layouts[5].clips] == [True, False, True, True]
    shapes = {clip.patch_shape for layout in layouts for clip in layout.clips}
    assert any(high > wide for high, wide in shapes) and any(wide > high for high, wide in shapes)
    for layout, (rows, grids) in zip(layouts, pixels, strict=True):
        assert [len(row) for row in rows] == [len(grid) for grid in grids] == layout.slice_sizes
    assert len(np.unique(pixels[2][0][0])) > 20


def test_model_agrees_with_itself(small, baseline, prompts):
    found = compared(baseline, observe_all(*small, prompts))
    assert found.departure(0.0) is None
    assert [part.name for part in found.parts] == activations.part_names(layers=3, taps=2)
    assert all(row.kl == row.max_abs == 0.0 for row in found.prompts)
    assert all(row.texts[0] == row.texts[1] for row in found.prompts)


def test_parts_hold_outputs_of_model(small, baseline, prompts):
    """The logits are computed from the normed output of the last layer."""
    _, params = small
    parts = baseline[2].parts
    last, scale = parts["language_model.layers.2"], params["language_model"]["norm"]["scale"]
    normed = last / np.sqrt((last**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)
    np.testing.assert_allclose(parts["language_model.norm"], normed, atol=1e-5)
    logits = parts["language_model.norm"] @ np.asarray(params["lm_head"]["kernel"])
    np.testing.assert_allclose(parts[LOGITS], logits, atol=1e-4)
    assert len(parts[LOGITS]) == len(prompts[0][2].tokens)
    assert len(parts["visual.merger"]) == prompts[0][2].is_visual.sum()
    assert "visual.merger" not in baseline[0].parts


@pytest.mark.parametrize(
    ("path", "layer", "part"),
    [
        ("embed_tokens.embedding", None, "language_model.embed_tokens"),
        ("visual.deepstack_mergers.linear_fc2.kernel", 1, "visual.deepstack_merger_list.1"),
        ("visual.merger.linear_fc1.kernel", None, "visual.merger"),
        ("language_model.layers.self_attn.kv_b_proj.kernel", 2, "language_model.layers.2"),
        ("language_model.layers.mlp.down_proj.kernel", 1, "language_model.layers.1"),
        ("language_model.norm.scale", None, "language_model.norm"),
        ("lm_head.kernel", None, LOGITS),
    ],
)
def test_first_differing_part_is_named(small, baseline, prompts, path, layer, part):
    observer, params = small
    found = compared(baseline, observe_all(observer, scaled(params, path, layer), prompts))
    assert found.departure(5e-4).name == part
    assert found.prompts[2].kl > 0


def test_models_of_different_depth_are_compared_by_logits(baseline):
    shorter = [
        Outputs({k: a for k, a in one.parts.items() if k != "language_model.layers.2"}, one.text)
        for one in baseline
    ]
    found = compared(baseline, shorter)
    assert [part.name for part in found.parts] == [LOGITS]
    assert found.departure(0.0) is None


def test_distance_is_that_of_worst_token_and_kl_is_mean():
    one = Outputs({LOGITS: np.log(np.array([[1, 1], [1, 3]], np.float32))}, "a")
    other = Outputs({LOGITS: np.log(np.array([[1, 1], [3, 1]], np.float32))}, "b")
    found = agreement.compare(["x"], [one], [other])
    [part] = found.parts
    assert (part.prompt, part.token) == ("x", 1)
    assert part.distance == pytest.approx(np.sqrt(2))
    kl = 0.25 * np.log(1 / 3) + 0.75 * np.log(3)
    assert found.prompts[0].kl == pytest.approx(kl / 2)
    assert found.prompts[0].kl_max == pytest.approx(kl)


def test_non_finite_output_counts_as_difference():
    one = Outputs({LOGITS: np.zeros((2, 3), np.float32)}, "")
    broken = Outputs({LOGITS: np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)}, "")
    for pair in ((one, broken), (broken, broken)):
        part = agreement.compare(["x"], *[[side] for side in pair]).departure(1e9)
        assert (part.name, part.token) == (LOGITS, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of the tiny preset, the same model as a folder, and a run with another second layer."""
    root = tmp_path_factory.mktemp("verify")
    mine = config.base()
    mine.data.update(fps=1.0, min_frames=2, max_frames=16, min_pixels=4096, max_pixels=65536)
    definition = from_config.model.definition(mine)
    params = definition.init(0)
    write.export(
        root / "hf",
        definition,
        params,
        compact_tokenizer.PATH,
        processor.FrameRules(1.0, 2, 16, 4096, 65536),
        {},
        "float32",
    )
    other = scaled(params, "language_model.layers.mlp.up_proj.kernel", 1)
    for name, tree in (("run", params), ("other", other)):
        (root / name).mkdir()
        workdirs.claim(root / name, mine)
        checkpoint.save_params(root / name, tree, config.snapshot(mine))
    return root


def run_verify(source=(), checkpoint=(), **options) -> dict:
    given = {
        "video": "",
        "image": [],
        "prompt": "",
        "tolerance": None,
        "dtype": None,
        "max_new_tokens": 2,
        "ignore_memory_forecast": False,
    }
    given |= {"peer": None, "source": list(source), "checkpoint": list(checkpoint), **options}
    return verify.run(types.SimpleNamespace(**given), [])


def test_folder_agrees_with_run_it_was_exported_from(folders, capsys):
    result = run_verify([folders / "hf"], [folders / "run"], prompt="Why?")
    assert result["ok"] and result["tolerance"] == verify.TOLERANCES["float32"]
    assert result["prompts"][0]["max_abs"] == 0.0
    assert "the models agree" in capsys.readouterr().out


@pytest.fixture(scope="module")
def rounded(folders) -> pathlib.Path:
    """The export of `run` in bfloat16, as it is by default."""
    model = from_config.stored_model.open_model(folders / "run")
    from_config.export.export_model(model, folders / "rounded", "bfloat16", 5.0)
    return folders / "rounded"


def test_rounded_export_is_equal_within_bfloat16(folders, rounded, capsys):
    result = run_verify([folders / "run"], [rounded], prompt="Why?")
    assert result["ok"] and result["tolerance"] == verify.TOLERANCES["float32"]
    assert result["prompts"][0]["max_abs"] < 1e-5
    assert "the models are equal within bfloat16: no part" in capsys.readouterr().out


def test_only_weights_that_one_side_stores_in_bfloat16_are_rounded(folders, rounded):
    run, wide, narrow = (
        from_config.stored_model.open_model(path)
        for path in (folders / "run", folders / "hf", rounded)
    )
    everything = {weight.path for weight in names.weights(run.definition)}
    assert verify._rounded_paths(run, narrow) == verify._rounded_paths(narrow, wide) == everything
    assert verify._rounded_paths(narrow, narrow) == verify._rounded_paths(run, wide) == set()


def test_rounding_is_that_of_bfloat16(small):
    _, params = small
    paths = {
        ("language_model", "norm", "scale"),
        ("language_model", "layers", "mlp", "up_proj", "kernel"),
    }
    mine = jax.tree.map(lambda array: jax.numpy.array(array) * 1.2345, params)
    expected = jax.tree.map(np.asarray, mine)
    found = verify._round(mine, paths)
    flat = jax.tree_util.tree_leaves_with_path(expected)
    for path, array in flat:
        keys = tuple(entry.key for entry in path)
        want = array.astype(jax.numpy.bfloat16).astype(np.float32) if keys in paths else array
        leaf = found
        for key in keys:
            leaf = leaf[key]
        np.testing.assert_array_equal(leaf, want)


def test_changed_layer_is_found_and_printed(folders, capsys):
    result = run_verify(checkpoint=[folders / "run", folders / "other"], prompt="Why?")
    assert not result["ok"] and result["departure"] == "language_model.layers.1"
    printed = capsys.readouterr().out
    assert "language_model.layers.1" in printed and "<- departs here" in printed
    json.dumps(result)


def test_model_with_nan_differs(folders, capsys):
    models = [from_config.stored_model.open_model(folders / name) for name in ("run", "run")]

    class Broken:
        folder, config, definition = folders / "run", models[1].config, models[1].definition

        def load(self, shardings, dtype):
            params, step = models[1].load(shardings, dtype)
            scale = params["language_model"]["norm"]["scale"]
            params["language_model"]["norm"]["scale"] = scale.at[0].set(np.nan)
            return params, step

    result = verify.verify(models[0], Broken(), probes.user_prompt("", "Why?"), max_new_tokens=2)
    assert not result["ok"] and result["departure"] == "language_model.norm"
    assert "NaN" not in json.dumps(result) and "Infinity" not in json.dumps(result)


@pytest.mark.parametrize(("ok", "code"), [(True, None), (False, 1)])
def test_failed_check_exits_with_1(monkeypatch, capsys, ok, code):
    monkeypatch.setattr(cli, "_run", lambda *arguments: {"ok": ok})
    monkeypatch.setattr(cli, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(json=True)))
    command = ("ivx", "ivx", table.MODULES, ["ivx", "verify"])
    if ok:
        cli.main(*command)
    else:
        with pytest.raises(SystemExit) as exit_info:
            cli.main(*command)
        assert exit_info.value.code == code
    assert json.loads(capsys.readouterr().out) == {"ok": ok}


def test_models_that_cannot_be_compared_are_rejected(folders, tmp_path):
    run = folders / "run"
    for source, checkpoints, options, sentence in (
        ([], [], {}, "0 models were given, expected two"),
        ([run], [run, run], {}, "3 models were given"),
        ([run], [tmp_path], {}, "is not a workdir"),
        ([run], [run], {"video": str(tmp_path / "no.mp4")}, "no.mp4"),
        ([run], [run], {"image": [str(tmp_path / "no.png")]}, "no.png"),
        ([run], [run], {"prompt": "<|im_end|>"}, "im_end"),
        ([run], [], {"peer": "transformers"}, "is not a Hugging Face folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            run_verify(source, checkpoints, **options)


class UpperCase(tokenizer.Tokenizer):
    """A tokenizer with different ids."""

    def __init__(self, words: tokenizer.Tokenizer):
        self.words, self.video_pad, self.image_pad = words, words.video_pad, words.image_pad

    def encode(self, text: str, plain: bool = False) -> list[int]:
        return self.words.encode(text.upper(), plain)


def test_models_with_different_vocabularies_are_rejected(folders, monkeypatch):
    def rule_of(mine, baseline=from_config.data.layout_rule):
        rule = baseline(mine)
        if mine.run.seed == 7:
            return dataclasses.replace(rule, tokenizer=UpperCase(rule.tokenizer))
        return rule

    models = [from_config.stored_model.open_model(folders / name) for name in ("run", "other")]
    models[1].config.run.seed = 7
    monkeypatch.setattr(from_config.data, "layout_rule", rule_of)
    with pytest.raises(UserError, match="have different vocabularies"):
        verify.verify(*models, probes.user_prompt("", "Why?"))


def test_transformers_agrees_with_export(folders):
    """The code of Qwen3-VL, or of an export, agrees part by part."""
    pytest.importorskip("transformers")
    result = run_verify([folders / "hf"], peer="transformers")
    assert result["ok"], result["departure"]
    assert len(result["parts"]) == len(activations.part_names(4, 3))
    assert all(row["texts"][0] == row["texts"][1] for row in result["prompts"])


def test_missing_transformers_names_the_extra(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'ivx\[hf\]'"):
        run_verify([folders / "hf"], peer="transformers", prompt="Why?")
