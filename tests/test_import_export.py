"""`ivx export-hf`, then `ivx import-hf`."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ivx import config, from_config
from ivx import workdir as workdirs
from ivx.commands import export_hf, import_hf
from ivx.errors import UserError
from ivx.models.definition import Params
from ivx.text import compact_tokenizer
from ivx.training.checkpoints import checkpoint


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of the tiny preset at step 0."""
    folder = tmp_path_factory.mktemp("run")
    experiment = config.base()
    experiment.data.update(mixture="data.json", fps=1.0, min_frames=2, max_frames=16)
    experiment.data.update(min_pixels=4096, max_pixels=65536)
    workdirs.claim(folder, experiment)
    params = from_config.model.definition(experiment).init(0)
    checkpoint.save_params(folder, params, config.snapshot(experiment))
    return folder


@pytest.fixture(scope="module")
def exported(workdir: pathlib.Path) -> pathlib.Path:
    out = workdir.parent / f"{workdir.name}-exported"
    result = export(workdir, out, dtype="float32", shard_gb=0.005)
    assert result["step"] == 0 and "model.safetensors.index.json" in result["files"]
    return out


def export(
    workdir: pathlib.Path, out: pathlib.Path | str, dtype: str = "bfloat16", shard_gb: float = 5.0
) -> dict:
    values = {"workdir": str(workdir), "out": str(out), "dtype": dtype, "shard_gb": shard_gb}
    return export_hf.run(types.SimpleNamespace(**values, ignore_memory_forecast=False), [])


def import_(source: pathlib.Path | str, workdir: pathlib.Path | str) -> dict:
    values = {
        "source": str(source),
        "workdir": str(workdir),
        "allow_nonfinite": False,
        "ignore_memory_forecast": False,
    }
    return import_hf.run(types.SimpleNamespace(**values), [])


def load(workdir: pathlib.Path) -> tuple[ConfigDict, Params]:
    """Config and parameters of a workdir."""
    experiment = config.base()
    experiment.update(json.loads((workdir / "config.json").read_text()))
    definition = from_config.model.definition(experiment)
    return experiment, checkpoint.load_params(workdir, definition.abstract_params)[0]


def test_import_restores_the_exported_run(
    workdir: pathlib.Path, exported: pathlib.Path, tmp_path: pathlib.Path
):
    result = import_(exported, tmp_path / "back")
    assert (result["preset"], result["attention"], result["tokenizer"]) == (
        "tiny",
        "m2la",
        "compact",
    )
    (before, params), (after, imported) = load(workdir), load(tmp_path / "back")
    after.data.mixture = before.data.mixture
    assert config.flatten(after) == config.flatten(before)
    for left, right in zip(jax.tree.leaves(params), jax.tree.leaves(imported), strict=True):
        np.testing.assert_array_equal(left, right)


def test_model_folder_is_distinguished_from_a_workdir(
    exported: pathlib.Path, workdir: pathlib.Path, tmp_path: pathlib.Path
):
    assert from_config.hf_folder.is_model(exported)
    assert not from_config.hf_folder.is_model(workdir) and not from_config.hf_folder.is_model(
        tmp_path
    )


def test_exported_folder_is_complete_and_readable(exported: pathlib.Path):
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
    assert len(modes) == 1, "the files of the folder differ in their permissions"
    assert "| step | 0 |" in (exported / "README.md").read_text()


def test_other_tokenizer_is_referenced_by_its_folder(
    exported: pathlib.Path, tmp_path: pathlib.Path
):
    """Any tokenizer that is not bitwise the compact one."""
    other = tmp_path / "other"
    other.mkdir()
    for path in exported.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    content = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content, indent=1))
    assert import_(other, tmp_path / "run")["tokenizer"] == str(other.resolve())


def test_bad_import_is_rejected_and_nothing_is_written(
    exported: pathlib.Path, workdir: pathlib.Path, tmp_path: pathlib.Path
):
    for source, target, message in (
        ("", tmp_path / "new", "no --source was given"),
        (tmp_path / "nowhere", tmp_path / "new", "is not a folder"),
        (tmp_path, tmp_path / "new", "has no config.json"),
        (exported, "", "no --workdir was given"),
        (exported, workdir, "is not empty"),
    ):
        with pytest.raises(UserError, match=message):
            import_(source, target)
    assert not (tmp_path / "new").exists()


def test_damaged_tokenizer_is_rejected(exported: pathlib.Path, tmp_path: pathlib.Path):
    other = tmp_path / "other"
    other.mkdir()
    for path in exported.iterdir():
        (other / path.name).write_bytes(path.read_bytes()[: 99 if "izer.js" in path.name else None])
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        import_(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_export_is_rejected(
    exported: pathlib.Path, workdir: pathlib.Path, tmp_path: pathlib.Path
):
    for source, out, message in (
        (workdir, "", "no --out was given"),
        (workdir, exported, "is not empty"),
        (tmp_path, tmp_path / "new", "is not a workdir"),
    ):
        with pytest.raises(UserError, match=message):
            export(source, out)
    assert not (tmp_path / "new").exists()
