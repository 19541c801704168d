"""Bundled models and the clip are found by name, and never in place of another path."""

import pathlib

import pytest

from ivx import bundled


@pytest.mark.parametrize("name", ["tiny-base", "assets/tiny-base", "clip.mp4"])
def test_bundled_file_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled.find(name).exists()


@pytest.mark.parametrize("name", ["/data/assets/tiny-base", "runs/tiny-base", "README.md"])
def test_other_missing_path_stays_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled.find(name) == pathlib.Path(name)
