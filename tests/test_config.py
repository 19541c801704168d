"""Configs: golden snapshots, the check that lists every error, the workdir's claim."""

import json
import pathlib

import jax
import pytest

from experiments import base, convert, cpt, opd, recipe, rl_gspo, sft_long, sft_short, teacher
from ivx import build, config
from ivx.build import training
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import rules
from ivx.parallel.mesh import make_mesh
from ivx.training.parts import dotted

GOLDEN = pathlib.Path(__file__).parent / "golden"


# Every config that the experiments give: name of its golden file -> the config.
EXPERIMENTS = {
    f"{module.__name__.split('.')[-1]}_{preset}": module.get_config(preset)
    for module, presets in (
        (teacher, ["tiny"]),
        *((module, sorted(module.PRESETS)) for module in (base, convert, cpt, sft_short, sft_long)),
        *((module, sorted(module.PRESETS)) for module in (rl_gspo, opd)),
    )
    for preset in presets
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiment_is_what_it_was(name):
    """A changed number shows here; make the file anew with `python -m tests.make_golden`."""
    assert config.snapshot(EXPERIMENTS[name]) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_used_once_it_has_a_start(name):
    experiment = EXPERIMENTS[name].copy_and_resolve_references()
    if experiment.run.follows:
        with pytest.raises(UserError, match="this stage goes on from what"):
            config.validate(experiment)
    experiment.run.start = "somewhere"
    config.validate(experiment)


@pytest.mark.parametrize(
    ("preset", "attention"), [("tiny", "m2la"), ("tiny", "gqa"), ("8b", "m2la")]
)
def test_the_parameter_tree_is_what_it_was(preset, attention):
    """Names, shapes and mesh axes of every parameter, none of it allocated."""
    experiment = sft_short.get_config(preset)
    experiment.model.attention = attention
    expected = json.loads((GOLDEN / f"parameters_{preset}_{attention}.json").read_text())
    assert parameter_table(build.model_definition(experiment)) == expected


def parameter_table(definition: ModelDefinition) -> dict[str, str]:
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    shardings = rules.parameter_shardings(definition.abstract, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params)
    specs = jax.tree.leaves(shardings)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.shape} {spec.spec}"
        for (path, leaf), spec in zip(leaves, specs, strict=True)
    }


def test_the_8b_model_has_the_published_number_of_parameters():
    """9,484,672,240 with latent attention, 8,767,123,696 with grouped (spec 1.0)."""
    for attention, published in (("m2la", 9_484_672_240), ("gqa", 8_767_123_696)):
        experiment = sft_short.get_config("8b")
        experiment.model.attention = attention
        shapes = jax.tree.leaves(build.model_definition(experiment).abstract_params)
        assert sum(shape.size for shape in shapes) == published


def test_all_errors_are_listed_at_once():
    bad = sft_short.get_config("scratch")
    bad.stage.prompts = 0
    bad.optim.warmup = 2.0
    bad.data.min_frames = 99
    with pytest.raises(UserError) as error:
        config.validate(bad)
    for part in ("stage.prompts = 0", "optim.warmup = 2.0", "data.min_frames = 99 must not exceed"):
        assert part in str(error.value)


def test_a_budget_smaller_than_one_slice_is_refused():
    bad = sft_short.get_config("scratch")
    bad.data.update(mixture="x", min_pixels=0, max_pixels=1000)
    with pytest.raises(UserError, match=r"data\.max_pixels = 1000: expected at least 2048"):
        config.validate(bad)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"image_max_pixels": 1000}, r"data\.image_max_pixels = 1000: expected at least 2048"),
        ({"image_min_pixels": 0}, r"data\.image_min_pixels = 0: expected at least 1"),
        ({"image_min_pixels": 10**6}, r"data\.image_min_pixels = 1000000 must not exceed"),
    ],
)
def test_a_budget_of_images_that_cannot_be_meant_is_refused(changed, sentence):
    bad = sft_short.get_config("scratch")
    bad.data.update(changed)
    with pytest.raises(UserError, match=sentence):
        config.validate(bad)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(UserError, match="no preset 'huge'; there are tiny, scratch, 8b"):
        sft_short.get_config("huge")


def test_a_misspelt_key_gets_the_nearest():
    known = config.keys(config.base())
    assert "optim.learning_rate" in config.nearest("optim.learning_rat", known)
    assert "run.steps" in config.nearest("steps", known)


def test_a_recipe_goes_on_in_its_workdir(tmp_path):
    """Its config has other sections than those of a stage."""
    first = recipe.get_config("tiny")
    config.claim_workdir(tmp_path, first)
    config.claim_workdir(tmp_path, recipe.get_config("tiny"))
    first.seed = 1
    with pytest.raises(UserError, match=r"another config: seed \(0 there, 1 here\)"):
        config.claim_workdir(tmp_path, first)


def test_a_workdir_of_another_config_is_refused_with_the_keys(tmp_path):
    first = sft_short.get_config("scratch")
    first.data.mixture = "data.json"
    config.claim_workdir(tmp_path, first)
    config.claim_workdir(tmp_path, first)
    assert config.flatten(config.load_workdir(tmp_path)) == config.flatten(first)
    second = first.copy_and_resolve_references()
    second.optim.learning_rate = 0.5
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"optim\.learning_rate \(0\.0\d+ there, 0\.5 here\)"):
        config.claim_workdir(tmp_path, second)
    assert (tmp_path / "config.json").read_text() == before


def test_how_a_run_is_spread_and_watched_may_change_between_starts(tmp_path):
    first = sft_short.get_config("scratch")
    config.claim_workdir(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.train.watchdog = 60.0
    second.run.save_every = 7
    second.mesh.context = 2
    second.model.remat = "offload"
    found = config.claim_workdir(tmp_path, second)
    assert [one.split()[0] for one in found] == [
        "mesh.context",
        "model.remat",
        "run.save_every",
        "train.watchdog",
    ]
    second.optim.accumulation = 2
    assert config.claim_workdir(tmp_path, second) == ["optim.accumulation (1 there, 2 here)"]
    # Who reads the workdir later finds what it went on with.
    assert config.load_workdir(tmp_path).mesh.context == 2
    assert config.claim_workdir(tmp_path, second) == []


@pytest.mark.parametrize("change", [{"name": "convert"}, {"rehearse": ("synthetic_train",)}])
def test_micro_batches_stay_where_they_change_the_loss(tmp_path, change):
    first = sft_short.get_config("scratch")
    first.stage.update(change)
    config.claim_workdir(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.optim.accumulation = 2
    with pytest.raises(UserError, match=r"optim\.accumulation \(1 there, 2 here\)"):
        config.claim_workdir(tmp_path, second)


def test_a_run_of_a_version_without_a_key_goes_on_with_its_default(tmp_path):
    first = sft_short.get_config("scratch")
    config.claim_workdir(tmp_path, first)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["train"], stored["stage"]["match"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config.claim_workdir(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.stage.match = False
    with pytest.raises(UserError, match=r"stage\.match \(True there, False here\)"):
        config.claim_workdir(tmp_path, second)


def test_lora_is_refused_where_answers_are_rolled_out():
    bad = rl_gspo.get_config("tiny")
    bad.run.start = "somewhere"
    bad.optim.lora_rank = 8
    with pytest.raises(UserError, match="stage gspo trains without LoRA so far"):
        config.validate(bad)


def test_with_lora_nothing_else_trains_unless_it_is_named():
    experiment = sft_short.get_config("tiny")
    experiment.optim.lora_rank = 8
    parts = training.parts(experiment)
    abstract = training.definition(experiment).abstract_params
    names = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    assert {name.split(".")[0] for name in names if parts.trains(name)} == {"lora"}
    assert "lora.language_model.layers.self_attn.q_proj.kernel.a" in names
    experiment.optim.train = ("visual.merger.*",)
    parts = training.parts(experiment)
    assert {name.split(".")[0] for name in names if parts.trains(name)} == {"lora", "visual"}
