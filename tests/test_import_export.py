"""`ivx export-hf` and `ivx import-hf`, one after the other."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from ivx import build, config
from ivx.build import hugging_face
from ivx.commands import export_hf, import_hf
from ivx.errors import UserError
from ivx.text import compact_tokenizer
from ivx.training import checkpoint


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """A run of the tiny preset that has just begun."""
    folder = tmp_path_factory.mktemp("run")
    mine = config.base()
    mine.data.update(mixture="data.json", fps=1.0, min_frames=2, max_frames=16)
    mine.data.update(min_pixels=4096, max_pixels=65536)
    config.claim_workdir(folder, mine)
    params = build.model_definition(mine).init(0)
    checkpoint.save_params(folder, params, config.snapshot(mine))
    return folder


@pytest.fixture(scope="module")
def exported(workdir) -> pathlib.Path:
    out = workdir.parent / f"{workdir.name}-exported"
    result = export(workdir, out, dtype="float32", shard_gb=0.005)
    assert result["step"] == 0 and "model.safetensors.index.json" in result["files"]
    return out


def export(workdir, out, dtype="bfloat16", shard_gb=5.0) -> dict:
    given = {"workdir": str(workdir), "out": str(out), "dtype": dtype, "shard_gb": shard_gb}
    return export_hf.run(types.SimpleNamespace(**given), [])


def import_(source, workdir) -> dict:
    return import_hf.run(types.SimpleNamespace(source=str(source), workdir=str(workdir)), [])


def opened(workdir):
    """Config and parameters of a workdir."""
    found = config.base()
    found.update(json.loads((workdir / "config.json").read_text()))
    definition = build.model_definition(found)
    return found, checkpoint.load_params(workdir, definition.abstract_params)[0]


def test_a_run_goes_out_and_comes_in_again(workdir, exported, tmp_path):
    result = import_(exported, tmp_path / "back")
    assert (result["preset"], result["attention"], result["tokenizer"]) == (
        "tiny",
        "m2la",
        "compact",
    )
    (before, params), (after, again) = opened(workdir), opened(tmp_path / "back")
    after.data.mixture = before.data.mixture
    assert config.flatten(after) == config.flatten(before)
    for left, right in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_folder_is_told_from_a_workdir(exported, workdir, tmp_path):
    assert hugging_face.is_model(exported)
    assert not hugging_face.is_model(workdir) and not hugging_face.is_model(tmp_path)


def test_the_folder_is_whole(exported):
    names = {path.name for path in exported.iterdir() if path.suffix != ".safetensors"}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "configuration_internvideo3.py",
        "generation_config.json",
        "model.safetensors.index.json",
        "modeling_internvideo3.py",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
    }
    assert (exported / "tokenizer.json").read_bytes() == compact_tokenizer.PATH.read_bytes()
    assert exported.stat().st_mode & 0o055 == 0o055
    modes = {path.stat().st_mode for path in exported.iterdir()}
    assert len(modes) == 1, "some files of the folder are not as open to others as the rest"
    assert "| step | 0 |" in (exported / "README.md").read_text()


def test_another_tokenizer_stays_where_it_is(exported, tmp_path):
    """One that is not the compact one byte for byte is named by its folder."""
    other = tmp_path / "other"
    other.mkdir()
    for path in exported.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    content = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content, indent=1))
    assert import_(other, tmp_path / "run")["tokenizer"] == str(other.resolve())


def test_what_cannot_be_imported_is_refused_and_nothing_is_written(exported, workdir, tmp_path):
    for source, target, sentence in (
        ("", tmp_path / "new", "no --source was given"),
        (tmp_path / "nowhere", tmp_path / "new", "is no folder"),
        (tmp_path, tmp_path / "new", "has no config.json"),
        (exported, "", "no --workdir was given"),
        (exported, workdir, "is not empty"),
    ):
        with pytest.raises(UserError, match=sentence):
            import_(source, target)
    assert not (tmp_path / "new").exists()


def test_a_damaged_tokenizer_is_named(exported, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in exported.iterdir():
        (other / path.name).write_bytes(path.read_bytes()[: 99 if "izer.js" in path.name else None])
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        import_(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_exported_is_refused(exported, workdir, tmp_path):
    for source, out, sentence in (
        (workdir, "", "no --out was given"),
        (workdir, exported, "is not empty"),
        (tmp_path, tmp_path / "new", "is not a workdir"),
    ):
        with pytest.raises(UserError, match=sentence):
            export(source, out)
    assert not (tmp_path / "new").exists()
