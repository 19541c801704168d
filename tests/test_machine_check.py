"""`ivx doctor` without a folder: describes the machine and finds what is wrong with it."""

import importlib.metadata

import pytest

from ivx.parallel import machine_check


def test_machine_is_described(tmp_path, capsys):
    result = machine_check.examine(str(tmp_path))
    checks = {check["name"]: check for check in result["checks"]}
    assert "8 of cpu" in checks["devices"]["found"]
    assert "summed over 8" in checks["mesh"]["found"] and not checks["mesh"]["advice"]
    assert "MB/s written" in checks["storage"]["found"]
    assert not list(tmp_path.iterdir())
    assert "hosts" not in checks
    printed = capsys.readouterr().out
    assert all(name in printed for name in checks)


def test_package_of_unsupported_version_is_named(monkeypatch):
    required = ["jax<0.1", "etils[epath]>=1.15,<2", 'torch==2.13.0; extra == "hf"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    [_, packages] = machine_check._versions()
    assert "jax" in packages.found and "required <0.1" in packages.found and packages.advice
    assert "etils" not in packages.found and "torch" not in packages.found


@pytest.mark.parametrize("kind", ["file", "parent"])
def test_unwritable_storage_is_reported(tmp_path, kind):
    """A file is in place of the folder, or of its parent."""
    (tmp_path / "x").write_text("")
    folder = tmp_path / "x" if kind == "file" else tmp_path / "x" / "y"
    check = machine_check._storage(folder)
    assert check.advice == "give a writable --workdir"
    assert str(folder) in check.found
