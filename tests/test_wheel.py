"""A wheel built from a clean checkout works outside of it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments: str, cwd: pathlib.Path, path: pathlib.Path | None = None):
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder that holds what the wheel holds, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    build = [
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    made = run(*build, cwd=checkout)
    assert made.returncode == 0, made.stderr
    [wheel] = folder.glob("ivx-*.whl")
    place = folder / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(place), str(wheel)]
    assert run(*install, cwd=folder).returncode == 0
    return place


def test_wheel_holds_models_configs_and_types(installed):
    for name in ("ivx/_assets/tiny-base/model.safetensors", "ivx/_assets/clip.mp4", "ivx/py.typed"):
        assert (installed / name).is_file(), name
    assert (installed / "experiments" / "sft_short.py").is_file()
    assert not (installed / "benchmarks").exists() and not (installed / "tests").exists()


def test_installed_chat_answers_from_any_folder(installed, tmp_path):
    asked = ["--video=clip.mp4", "--question=What colour is the shape?"]
    chat = run("-m", "ivx", "chat", *asked, cwd=tmp_path, path=installed)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip().endswith("blue")


def test_installed_training_finds_its_config_by_name(installed, tmp_path):
    wanted = ["--config=sft_short:tiny", f"--workdir={tmp_path / 'run'}"]
    train = run("-m", "ivx", "train", *wanted, cwd=tmp_path, path=installed)
    # Without data and a start it is refused, by the config itself.
    assert train.returncode == 2, train.stderr
    assert "run.start = ''" in train.stderr
