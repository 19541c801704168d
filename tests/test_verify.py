"""`ivx verify`: equal models agree, of others the first part that departs is named."""

import dataclasses
import json
import sys
import types

import jax
import numpy as np
import pytest

from ivx import __main__ as main
from ivx import build, config
from ivx.build import stored
from ivx.commands import verify
from ivx.errors import UserError
from ivx.evaluation import agreement, observe, probes
from ivx.evaluation.agreement import LOGITS, Seen
from ivx.hf import processor, write
from ivx.models.definition import ModelDefinition
from ivx.text import compact_tokenizer, tokenizer
from ivx.training import checkpoint
from tests.conftest import small_spec


@pytest.fixture(scope="module")
def asked(rule):
    """Layouts and pixels of the built-in prompts."""
    layouts = probes.lay_out(probes.built_in(), rule)
    return layouts, probes.read(layouts)


@pytest.fixture(scope="module")
def small() -> tuple:
    """A small model and its parameters."""
    definition = ModelDefinition(small_spec("m2la"))
    return observe.Observer(definition, tokenizer.load("compact")), definition.init(0)


def seen(observer, params, asked) -> list[Seen]:
    return observer(params, *asked, limit=2)


@pytest.fixture(scope="module")
def usual(small, asked) -> list[Seen]:
    """What it gives, run but once."""
    return seen(*small, asked)


def compared(one, other) -> agreement.Agreement:
    return agreement.compare(list(probes.built_in()), one, other)


def turned(params, path: str, layer=None) -> dict:
    """The parameters with one array, or one layer of it, times 1.1."""
    params = jax.tree.map(np.array, params)
    *keys, last = path.split(".")
    tree = params
    for key in keys:
        tree = tree[key]
    tree[last][... if layer is None else layer] *= 1.1
    return params


def test_built_in_prompts_need_no_file(asked):
    layouts, pixels = asked
    assert [len(layout.clips) for layout in layouts] == [0, 0, 1, 2, 1, 4]
    assert [clip.still for clip in layouts[5].clips] == [True, False, True, True]
    shapes = {clip.patch_shape for layout in layouts for clip in layout.clips}
    assert any(high > wide for high, wide in shapes) and any(wide > high for high, wide in shapes)
    for layout, (rows, grids) in zip(layouts, pixels, strict=True):
        assert [len(row) for row in rows] == [len(grid) for grid in grids] == layout.slice_sizes
    assert len(np.unique(pixels[2][0][0])) > 20


def test_a_model_agrees_with_itself(small, usual, asked):
    found = compared(usual, seen(*small, asked))
    assert found.departure(0.0) is None
    assert [part.name for part in found.parts] == observe.part_names(layers=3, taps=2)
    assert all(one.kl == one.max_abs == 0.0 for one in found.prompts)
    assert all(one.texts[0] == one.texts[1] for one in found.prompts)


def test_parts_are_those_of_the_model(small, usual, asked):
    """The norm of the last layer's output is what the logits are made of."""
    _, params = small
    parts = usual[2].parts
    last, scale = parts["language_model.layers.2"], params["language_model"]["norm"]["scale"]
    normed = last / np.sqrt((last**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)
    np.testing.assert_allclose(parts["language_model.norm"], normed, atol=1e-5)
    logits = parts["language_model.norm"] @ np.asarray(params["lm_head"]["kernel"])
    np.testing.assert_allclose(parts[LOGITS], logits, atol=1e-4)
    assert len(parts[LOGITS]) == len(asked[0][2].tokens)
    assert len(parts["visual.merger"]) == asked[0][2].is_visual.sum()
    assert "visual.merger" not in usual[0].parts


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
def test_the_first_part_that_departs_is_named(small, usual, asked, path, layer, part):
    observer, params = small
    found = compared(usual, seen(observer, turned(params, path, layer), asked))
    assert found.departure(5e-4).name == part
    assert found.prompts[2].kl > 0


def test_models_of_other_depths_are_compared_by_their_logits(usual):
    shorter = [
        Seen({k: a for k, a in one.parts.items() if k != "language_model.layers.2"}, one.text)
        for one in usual
    ]
    found = compared(usual, shorter)
    assert [part.name for part in found.parts] == [LOGITS]
    assert found.departure(0.0) is None


def test_distance_is_of_the_worst_token_and_kl_the_mean():
    one = Seen({LOGITS: np.log(np.array([[1, 1], [1, 3]], np.float32))}, "a")
    other = Seen({LOGITS: np.log(np.array([[1, 1], [3, 1]], np.float32))}, "b")
    found = agreement.compare(["x"], [one], [other])
    [part] = found.parts
    assert (part.prompt, part.token) == ("x", 1)
    assert part.distance == pytest.approx(np.sqrt(2))
    kl = 0.25 * np.log(1 / 3) + 0.75 * np.log(3)
    assert found.prompts[0].kl == pytest.approx(kl / 2)
    assert found.prompts[0].kl_max == pytest.approx(kl)


def test_what_is_not_finite_departs():
    one = Seen({LOGITS: np.zeros((2, 3), np.float32)}, "")
    broken = Seen({LOGITS: np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)}, "")
    for pair in ((one, broken), (broken, broken)):
        part = agreement.compare(["x"], *[[side] for side in pair]).departure(1e9)
        assert (part.name, part.token) == (LOGITS, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of the tiny preset, the same as a folder, and one whose second layer is another."""
    root = tmp_path_factory.mktemp("verify")
    mine = config.base()
    mine.data.update(fps=1.0, min_frames=2, max_frames=16, min_pixels=4096, max_pixels=65536)
    definition = build.model_definition(mine)
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
    other = turned(params, "language_model.layers.mlp.up_proj.kernel", 1)
    for name, tree in (("run", params), ("other", other)):
        (root / name).mkdir()
        config.claim_workdir(root / name, mine)
        checkpoint.save_params(root / name, tree, config.snapshot(mine))
    return root


def verified(source=(), checkpoint=(), **options) -> dict:
    given = {
        "video": "",
        "image": [],
        "prompt": "",
        "tolerance": None,
        "dtype": None,
        "max_new_tokens": 2,
    }
    given |= {"peer": None, "source": list(source), "checkpoint": list(checkpoint), **options}
    return verify.run(types.SimpleNamespace(**given), [])


def test_a_folder_agrees_with_the_run_it_came_from(folders, capsys):
    result = verified([folders / "hf"], [folders / "run"], prompt="Why?")
    assert result["ok"] and result["tolerance"] == verify.TOLERANCES["float32"]
    assert result["prompts"][0]["max_abs"] == 0.0
    assert "they agree" in capsys.readouterr().out


def test_a_changed_layer_is_found_and_the_command_says_so(folders, capsys):
    result = verified(checkpoint=[folders / "run", folders / "other"], prompt="Why?")
    assert not result["ok"] and result["departure"] == "language_model.layers.1"
    printed = capsys.readouterr().out
    assert "language_model.layers.1" in printed and "<- departs here" in printed
    json.dumps(result)


def test_a_model_with_a_number_that_is_none_differs(folders, capsys):
    models = [stored.open_model(folders / name) for name in ("run", "run")]

    class Broken:
        folder, config, definition = folders / "run", models[1].config, models[1].definition

        def load(self, shardings):
            params, step = models[1].load(shardings)
            scale = params["language_model"]["norm"]["scale"]
            params["language_model"]["norm"]["scale"] = scale.at[0].set(np.nan)
            return params, step

    result = verify.verify(models[0], Broken(), probes.of_user("", "Why?"), max_new_tokens=2)
    assert not result["ok"] and result["departure"] == "language_model.norm"
    assert "NaN" not in json.dumps(result) and "Infinity" not in json.dumps(result)


@pytest.mark.parametrize(("ok", "code"), [(True, None), (False, 1)])
def test_a_check_that_fails_exits_1(monkeypatch, capsys, ok, code):
    monkeypatch.setattr(main, "_run", lambda name, arguments: {"ok": ok})
    monkeypatch.setattr(
        main, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(json=True))
    )
    if ok:
        main.main(["ivx", "verify"])
    else:
        with pytest.raises(SystemExit) as ended:
            main.main(["ivx", "verify"])
        assert ended.value.code == code
    assert json.loads(capsys.readouterr().out) == {"ok": ok}


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    run = folders / "run"
    for source, checkpoints, options, sentence in (
        ([], [], {}, "0 models were given, expected two"),
        ([run], [run, run], {}, "3 models were given"),
        ([run], [tmp_path], {}, "is not a workdir"),
        ([run], [run], {"video": str(tmp_path / "no.mp4")}, "no.mp4"),
        ([run], [run], {"image": [str(tmp_path / "no.png")]}, "no.png"),
        ([run], [run], {"prompt": "<|im_end|>"}, "im_end"),
        ([run], [], {"peer": "transformers"}, "is no Hugging Face folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            verified(source, checkpoints, **options)


class Shouting:
    """A tokenizer with ids of its own."""

    def __init__(self, words: tokenizer.Tokenizer):
        self.words, self.video_pad, self.image_pad = words, words.video_pad, words.image_pad

    def encode(self, text: str) -> list[int]:
        return self.words.encode(text.upper())


def test_models_of_other_vocabularies_are_refused(folders, monkeypatch):
    def rule_of(mine, usual=build.layout_rule):
        rule = usual(mine)
        if mine.run.seed == 7:
            return dataclasses.replace(rule, tokenizer=Shouting(rule.tokenizer))
        return rule

    models = [stored.open_model(folders / name) for name in ("run", "other")]
    models[1].config.run.seed = 7
    monkeypatch.setattr(build, "layout_rule", rule_of)
    with pytest.raises(UserError, match="have different vocabularies"):
        verify.verify(*models, probes.of_user("", "Why?"))


def test_transformers_agrees(folders):
    """Qwen3-VL's own code or that of an export, part by part."""
    pytest.importorskip("transformers")
    result = verified([folders / "hf"], peer="transformers")
    assert result["ok"], result["departure"]
    assert len(result["parts"]) == len(observe.part_names(4, 3))
    assert all(one["texts"][0] == one["texts"][1] for one in result["prompts"])


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'ivx\[hf\]'"):
        verified([folders / "hf"], peer="transformers", prompt="Why?")
