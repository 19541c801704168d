"""Every command that writes a folder refuses one that another process writes, in one sentence."""

import pathlib
import subprocess
import sys
import types

import pytest

from ivx import config, folder_lock, from_config
from ivx.commands import convert, data, evaluate, import_hf, train
from ivx.errors import UserError
from ivx.evaluation import store
from tests.command import ROOT, ivx, refused
from tests.test_folder_lock import HOLD

MODEL = ROOT / "assets" / "tiny-base"


@pytest.fixture
def held(tmp_path):
    """A folder whose lock another process holds, by kind of the lock."""
    processes = []

    def hold(kind: str, folder: pathlib.Path) -> pathlib.Path:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, kind, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return folder

    yield hold
    for process in processes:
        process.communicate()


def is_refused(folder: pathlib.Path):
    return pytest.raises(UserError, match=rf"^{folder} is in use by process \d+ on ")


def test_training_and_conversion_are_refused(held, tmp_path):
    workdir = held("inside", tmp_path / "run")
    with is_refused(workdir):
        train.train(config.base("sft"), workdir)
    with is_refused(workdir):
        convert.convert(config.base("convert"), workdir)
    assert [path.name for path in workdir.iterdir()] == [folder_lock.NAME]


def test_evaluation_of_the_same_set_is_refused(held, tmp_path):
    """An evaluation in the workdir of a run that trains is not."""
    folder = held("beside", store.folder_of(tmp_path, "test"))
    with is_refused(folder):
        evaluate.evaluate(None, "test", tmp_path, 0, 1, 1)
    held("inside", tmp_path)
    with pytest.raises(AttributeError):  # it has the lock and asks None for its config
        evaluate.evaluate(None, "validation", tmp_path, 0, 1, 1)


def test_export_and_import_are_refused(held, tmp_path):
    model = from_config.stored_model.open_model(MODEL)
    out = held("beside", tmp_path / "model")
    with is_refused(out):
        from_config.export.export_model(model, out, "bfloat16", 5.0)
    workdir = held("inside", tmp_path / "run")
    with is_refused(workdir):
        import_hf.import_model(MODEL, workdir)


@pytest.mark.parametrize(
    "action, kind",
    [(a, "beside" if a in ("synthesize", "tokenizer") else "inside") for a in data.ACTIONS],
)
def test_data_commands_are_refused(action, kind, held, tmp_path):
    out = held(kind, tmp_path / "data")
    arguments = types.SimpleNamespace(out=str(out), mixture="", config=None)
    if action == "check":  # it writes nothing
        with pytest.raises(UserError, match="no --mixture"):
            data.run(arguments, [action])
        return
    with is_refused(out):
        data.run(arguments, [action])


def test_recipe_is_refused(held, tmp_path):
    workdir = held("inside", tmp_path / "recipe")
    message = refused(ivx("recipe", "--config=recipe:quick", f"--workdir={workdir}"))
    assert message.startswith(f"ivx: {workdir} is in use by process ")


def test_readers_of_a_workdir_need_no_lock(held, tmp_path):
    workdir = tmp_path / "run"
    import_hf.import_model(MODEL, workdir)
    held("inside", workdir)
    model = from_config.stored_model.open_model(workdir)
    result = from_config.export.export_model(model, tmp_path / "out", "bfloat16", 5.0)
    assert result["step"] == 0
