"""Configs: golden snapshots, validation, and the config of a workdir."""

import json
import pathlib

import jax
import pytest

from experiments import base, convert, cpt, opd, recipe, rl_gspo, sft_long, sft_short, teacher
from ivx import config, config_checks, config_synonyms, from_config
from ivx import workdir as workdirs
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import sharding
from ivx.parallel.mesh import make_mesh
from ivx.training.parameter_groups import dotted

GOLDEN = pathlib.Path(__file__).parent / "golden"


# Name of the golden file -> config, for every preset of every experiment.
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
def test_experiment_matches_golden_snapshot(name):
    """After an intended change, regenerate the files with `python -m tests.make_golden`."""
    assert config.snapshot(EXPERIMENTS[name]) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_valid_with_a_start(name):
    experiment = EXPERIMENTS[name].copy_and_resolve_references()
    if experiment.run.follows:
        with pytest.raises(UserError, match="this stage continues from the output of"):
            config_checks.validate(experiment)
    experiment.run.start = "somewhere"
    config_checks.validate(experiment)


@pytest.mark.parametrize(
    ("preset", "attention"), [("tiny", "m2la"), ("tiny", "gqa"), ("8b", "m2la")]
)
def test_parameter_tree_matches_golden_file(preset, attention):
    """Names, shapes and mesh axes of every parameter; nothing is allocated."""
    experiment = sft_short.get_config(preset)
    experiment.model.attention = attention
    expected = json.loads((GOLDEN / f"parameters_{preset}_{attention}.json").read_text())
    assert parameter_table(from_config.model.definition(experiment)) == expected


def parameter_table(definition: ModelDefinition) -> dict[str, str]:
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    shardings = sharding.parameter_shardings(definition.abstract, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params)
    specs = jax.tree.leaves(shardings)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.shape} {spec.spec}"
        for (path, leaf), spec in zip(leaves, specs, strict=True)
    }


def test_8b_model_has_published_parameter_count():
    """9,484,672,240 with latent attention, 8,767,123,696 with grouped attention (spec 1.0)."""
    for attention, published in (("m2la", 9_484_672_240), ("gqa", 8_767_123_696)):
        experiment = sft_short.get_config("8b")
        experiment.model.attention = attention
        shapes = jax.tree.leaves(from_config.model.definition(experiment).abstract_params)
        assert sum(shape.size for shape in shapes) == published


def test_validation_lists_all_errors():
    bad = sft_short.get_config("scratch")
    bad.run.steps = 0
    bad.optim.warmup = 2.0
    bad.data.min_frames = 99
    with pytest.raises(UserError) as error:
        config_checks.validate(bad)
    for part in ("run.steps = 0", "optim.warmup = 2.0", "data.min_frames = 99 must not exceed"):
        assert part in str(error.value)


def test_pixel_budget_below_one_slice_is_refused():
    bad = sft_short.get_config("scratch")
    bad.data.update(mixture="x", min_pixels=0, max_pixels=1000)
    with pytest.raises(UserError, match=r"data\.max_pixels = 1000: expected at least 2,048"):
        config_checks.validate(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_max_pixels": 1000}, r"data\.image_max_pixels = 1000: expected at least 2,048"),
        ({"image_min_pixels": 0}, r"data\.image_min_pixels = 0: expected at least 1"),
        ({"image_min_pixels": 10**6}, r"data\.image_min_pixels = 1000000 must not exceed"),
    ],
)
def test_invalid_image_pixel_budget_is_refused(changes, message):
    bad = sft_short.get_config("scratch")
    bad.data.update(changes)
    with pytest.raises(UserError, match=message):
        config_checks.validate(bad)


def test_unknown_preset_lists_existing_ones():
    with pytest.raises(UserError, match="no preset 'huge'; there are tiny, scratch, 8b"):
        sft_short.get_config("huge")


def test_misspelled_key_suggests_nearest():
    known = config.keys(config.base())
    assert "optim.learning_rate?" in config_synonyms.nearest("optim.learning_rat", known)
    assert "run.steps?" in config_synonyms.nearest("steps", known)


def test_recipe_resumes_in_its_workdir(tmp_path):
    """A recipe's config has other sections than a stage's."""
    first = recipe.get_config("tiny")
    workdirs.claim(tmp_path, first)
    workdirs.claim(tmp_path, recipe.get_config("tiny"))
    first.seed = 1
    with pytest.raises(UserError, match=r"another config: seed \(0 there, 1 here\)"):
        workdirs.claim(tmp_path, first)


def test_workdir_of_another_config_is_refused_with_differing_keys(tmp_path):
    first = sft_short.get_config("scratch")
    first.data.mixture = "data.json"
    workdirs.claim(tmp_path, first)
    workdirs.claim(tmp_path, first)
    assert config.flatten(workdirs.load(tmp_path)) == config.flatten(first)
    second = first.copy_and_resolve_references()
    second.optim.learning_rate = 0.5
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"optim\.learning_rate \(0\.0\d+ there, 0\.5 here\)"):
        workdirs.claim(tmp_path, second)
    assert (tmp_path / "config.json").read_text() == before


def test_mesh_and_monitoring_may_change_between_starts(tmp_path):
    first = sft_short.get_config("scratch")
    workdirs.claim(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.watch.watchdog = 60.0
    second.run.save_every = 7
    second.mesh.context = 2
    second.model.remat = "offload"
    changed = workdirs.claim(tmp_path, second)
    assert [difference.split()[0] for difference in changed] == [
        "mesh.context",
        "model.remat",
        "run.save_every",
        "watch.watchdog",
    ]
    second.optim.accumulation = 2
    assert workdirs.claim(tmp_path, second) == ["optim.accumulation (1 there, 2 here)"]
    # The stored config is updated.
    assert workdirs.load(tmp_path).mesh.context == 2
    assert workdirs.claim(tmp_path, second) == []


@pytest.mark.parametrize("experiment", [convert, opd], ids=["convert", "rehearsal"])
def test_accumulation_cannot_change_where_it_changes_the_loss(tmp_path, experiment):
    first = experiment.get_config("tiny")
    workdirs.claim(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.optim.accumulation = 2
    with pytest.raises(UserError, match=r"optim\.accumulation \(1 there, 2 here\)"):
        workdirs.claim(tmp_path, second)


def test_run_of_version_without_a_key_uses_its_default(tmp_path):
    first = convert.get_config("tiny")
    workdirs.claim(tmp_path, first)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["watch"], stored["stage"]["match"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    workdirs.claim(tmp_path, first)
    second = first.copy_and_resolve_references()
    second.stage.match = False
    with pytest.raises(UserError, match=r"stage\.match \(True there, False here\)"):
        workdirs.claim(tmp_path, second)


def test_lora_is_refused_for_stages_with_rollouts():
    bad = rl_gspo.get_config("tiny")
    bad.run.start = "somewhere"
    bad.optim.lora_rank = 8
    with pytest.raises(UserError, match="stage gspo does not support LoRA"):
        config_checks.validate(bad)


def test_lora_trains_nothing_else_unless_named():
    experiment = sft_short.get_config("tiny")
    experiment.optim.lora_rank = 8
    groups = from_config.training.parameter_groups(experiment)
    abstract = from_config.model.training_definition(experiment).abstract_params
    names = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    assert {name.split(".")[0] for name in names if groups.trains(name)} == {"lora"}
    assert "lora.language_model.layers.self_attn.q_proj.kernel.a" in names
    experiment.optim.trainable = ("visual.merger.*",)
    groups = from_config.training.parameter_groups(experiment)
    assert {name.split(".")[0] for name in names if groups.trains(name)} == {"lora", "visual"}


def test_workdir_of_earlier_version_is_read_and_resumed(tmp_path):
    """Renamed keys are translated; keys of other stages, once in every config, are dropped."""
    first = convert.get_config("tiny")
    old = json.loads(config.snapshot(first))
    old["train"] = old.pop("watch") | {"watchdog": 60.0}
    old["optim"]["train"] = old["optim"].pop("trainable")
    del old["optim"]["schedule"]
    old["stage"]["turn"] = "mean" if old["stage"].pop("mean_rotation") else "none"
    old["stage"]["polish"] = old["stage"].pop("fit_output")
    old["stage"] |= {"teacher": "", "clip_low": 3e-4, "prompts": 16}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert workdirs.load(tmp_path).watch.watchdog == 60.0
    assert workdirs.claim(tmp_path, first) == ["watch.watchdog (60.0 there, 1800.0 here)"]
    assert workdirs.load(tmp_path) == first


def test_run_with_rates_per_parameter_group_resumes(tmp_path):
    """Pairs within a tuple come back from JSON as lists."""
    first = sft_short.get_config("scratch")
    first.optim.rates = (("visual.*", 0.1),)
    workdirs.claim(tmp_path, first)
    assert workdirs.claim(tmp_path, first) == []


def test_recipe_of_an_earlier_version_resumes(tmp_path):
    config_now = recipe.get_config("tiny")
    old = json.loads(config.snapshot(config_now))
    del old["validate_packs"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert workdirs.claim(tmp_path, config_now) == []


@pytest.mark.parametrize("key", ["optim.clip", "watch.spike", "data.limit_hours"])
def test_limits_may_be_infinite(key):
    experiment = sft_short.get_config("scratch")
    section, name = key.split(".")
    experiment[section][name] = float("inf")
    config_checks.validate(experiment)


def test_bad_pattern_is_reported_before_data_are_planned(tmp_path):
    experiment = sft_short.get_config("scratch")
    experiment.optim.freeze = ("no_such_part.*",)
    mesh = make_mesh(dict.fromkeys(("replica", "fsdp", "tensor", "context"), 1), jax.devices()[:1])

    def make_stage():
        raise AssertionError("planned")

    with pytest.raises(UserError, match="no_such_part"):
        from_config.training.make_run(experiment, tmp_path, make_stage, mesh)
