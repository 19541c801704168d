"""The processes of one run share the lock of its workdir, and are refused together."""

import pytest

from ivx import folder_lock
from tests.multi_process import launch

pytestmark = pytest.mark.slow


def ends(workdir) -> list[tuple[int, str, str]]:
    processes = launch.launch("tests.multi_process.locks", [str(workdir)], 2)
    said = [process.communicate(timeout=120) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def test_processes_of_one_run_share_a_lock(tmp_path):
    for code, out, _ in ends(tmp_path / "run"):
        assert code == 0 and "held\n" in out
    assert not (tmp_path / "run").exists()


def test_processes_of_a_second_run_are_refused_together(tmp_path):
    with folder_lock.inside(tmp_path / "run"):
        first, second = ends(tmp_path / "run")
    assert first[0] == second[0] == 2, (first, second)
    assert f"ivx: {tmp_path / 'run'} is in use by process" in first[2]
    assert "ivx: process 0 could not lock" in second[2]
