"""`ivx doctor` without a folder: what a machine has, and what is wrong with it."""

import importlib.metadata

import pytest

from ivx.commands import machine


def test_a_machine_is_described(tmp_path, capsys):
    result = machine.examine(str(tmp_path))
    found = {check["name"]: check for check in result["checks"]}
    assert "8 of cpu" in found["devices"]["found"]
    assert "summed over 8" in found["mesh"]["found"] and not found["mesh"]["advice"]
    assert "MB/s written" in found["storage"]["found"]
    assert not list(tmp_path.iterdir())
    assert "hosts" not in found
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)


def test_a_package_that_is_not_as_pinned_is_named(monkeypatch):
    wanted = ["jax==0.0.1", "etils[epath]==1.15.0", 'torch==2.13.0; extra == "hf"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    [_, packages] = machine._versions()
    assert "jax" in packages.found and "pinned 0.0.1" in packages.found and packages.advice
    assert "etils" not in packages.found and "torch" not in packages.found


@pytest.mark.parametrize("spoil", ["file", "parent"])
def test_storage_that_cannot_be_written_is_said_so(tmp_path, spoil):
    """A file where the folder, or where one above it, should be."""
    (tmp_path / "x").write_text("")
    folder = tmp_path / "x" if spoil == "file" else tmp_path / "x" / "y"
    check = machine._storage(folder)
    assert check.advice == "give a --workdir that can be written"
    assert str(folder) in check.found
