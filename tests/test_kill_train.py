"""A few runs killed at random moments; `python -m tests.kill_train` kills more of them."""

import pytest

from tests import kill_train


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_was_not(tmp_path):
    found = kill_train.run(kill_train.Toy(), tmp_path, runs=6, seed=1)
    assert found["identical"] == 6 and found["kills"] >= 6
    assert found["kills_with_a_half_written_checkpoint"] >= 1
