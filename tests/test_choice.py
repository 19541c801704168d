"""Selection of an op's implementation, and its log messages."""

import jax
import jax.numpy as jnp
import pytest

from ivx.kernels import choice


def test_cpu_runs_xla_unless_forced():
    assert choice.pick("op", tpu=True) == "xla"
    with choice.force("tpu", interpret=True):
        assert choice.pick("op", tpu=True) == "tpu"
        assert choice.pick("op", tpu=False, constraint="too odd") == "xla"
        assert choice.interpret() is True
    assert choice.pick("op", tpu=True) == "xla"
    assert choice.interpret() is False


def test_forced_implementation_is_part_of_the_jit_cache_key():
    op = jax.jit(lambda x: x + (1 if choice.pick("op", tpu=True) == "tpu" else 0))
    assert op(jnp.zeros(())) == 0
    with choice.force("tpu"):
        assert op(jnp.zeros(())) == 1


def test_choice_is_logged_once(caplog):
    choice._logged.clear()
    with caplog.at_level("INFO"), choice.force("tpu"):
        for _ in range(3):
            choice.pick("narrow", tpu=False, constraint="a width of 5")
            choice.pick("wide", tpu=True)
    assert len(caplog.records) == 2
    assert "narrow: the TPU kernel does not support these shapes (a width of 5)" in caplog.text


def test_unknown_implementation_is_refused():
    with (
        pytest.raises(ValueError, match="'gpu' is not one of tpu, xla"),
        choice.force("gpu"),
    ):
        pass
