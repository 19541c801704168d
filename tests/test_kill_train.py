"""Runs killed at random times resume bitwise; `python -m tests.kill_train` tests more runs."""

import pytest

from tests import kill_train


@pytest.mark.slow
def test_killed_runs_resume_bitwise(tmp_path):
    result = kill_train.run(kill_train.Toy(), tmp_path, runs=6, seed=1)
    assert result["identical"] == 6 and result["kills"] >= 6
    assert result["kills_with_a_half_written_checkpoint"] >= 1
