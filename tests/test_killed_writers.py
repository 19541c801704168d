"""A killed command leaves nothing for good, and is no obstacle to its next start."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import sources
from data_pipelines.prepared import write
from data_pipelines.synthetic import presets
from data_pipelines.synthetic import write as synthetic
from data_pipelines.whole_folder import whole_folder
from ivx import folder_lock
from ivx import workdir as workdirs
from ivx.commands import import_hf
from tests.command import ROOT

# A pool whose two workers write their process ids and then work for a minute.
POOL = """
import os, pathlib, sys, time
from data_pipelines.process_pool import process_pool
def work(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)
if __name__ == "__main__":
    with process_pool(2) as pool:
        jobs = [pool.submit(work, f"{sys.argv[1]}/{number}") for number in range(2)]
        [job.result() for job in jobs]
"""


def is_alive(pid: int) -> bool:
    """Not counting processes that ended and were not waited for."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def pool(tmp_path):
    """A process with a pool, and the ids of its workers."""
    program = tmp_path / "program.py"
    program.write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    files = [tmp_path / "0", tmp_path / "1"]
    while not all(file.is_file() and file.read_text() for file in files):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    yield process, [int(file.read_text()) for file in files]
    process.kill()
    process.wait()


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_end_with_their_killed_parent(pool):
    """Or they would write into the files of the next start."""
    process, workers = pool
    assert all(map(is_alive, workers))
    process.kill()
    wait_for_end(workers)


def test_workers_leave_ctrl_c_to_their_parent(pool):
    """A terminal sends it to all of them: there is one traceback, of the parent, and no wait."""
    process, workers = pool
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=10)[1]
    assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt"), said
    wait_for_end(workers)


def test_next_start_removes_what_a_killed_one_left(tmp_path):
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "half").touch()
    with whole_folder(tmp_path / "model") as partial:
        assert list(partial.iterdir()) == []
        (partial / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "whole"]


def test_failed_folder_leaves_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "model") as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["model"]


def test_synthesis_goes_over_what_a_killed_one_left(tmp_path):
    (tmp_path / ".data.partial" / "clips" / "train").mkdir(parents=True)
    split = presets.PRESETS["test"]["validation"]
    synthetic.synthesize(tmp_path / "data", {"validation": split}, seed=0, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("left", ["job.json.partial", folder_lock.NAME, "both"])
def test_preparation_goes_on_from_half_of_its_first_file(left, data_folder, rule, tmp_path):
    names = ["job.json.partial", folder_lock.NAME] if left == "both" else [left]
    for name in names:
        (tmp_path / name).write_text('{"version": ')
    mixture, sets = data_folder / "data.json", ("synthetic_validation",)
    manifest = write.prepare(mixture, sets, tmp_path, rule, write.Options(workers=0))
    assert manifest["media"]["files"] > 0
    [read] = sources.read_mixture(tmp_path / "data.json", sets)
    assert read.prepared


@pytest.mark.parametrize("name", ["other.txt", ".hidden", "job.json.partial.txt"])
def test_preparation_refuses_a_folder_with_other_files(name, data_folder, rule, tmp_path):
    (tmp_path / name).touch()
    (tmp_path / "job.json.partial").touch()
    with pytest.raises(FileExistsError, match="other files"):
        write.prepare(
            data_folder / "data.json",
            ("synthetic_validation",),
            tmp_path,
            rule,
            write.Options(workers=0),
        )


def test_import_goes_over_what_a_killed_one_left(tmp_path):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    (workdir / workdirs.PARTIAL).write_text("{")
    import_hf.import_model(ROOT / "assets" / "tiny-base", workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "config.json"]
    shutil.rmtree(workdir)
