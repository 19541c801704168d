"""A failing process of a multi-process run prints the reason and exits with a meaningful code."""

import jax
import pytest

from ivx.commands import out_of_memory
from ivx.errors import Interrupted, UserError
from ivx.training.health import failures
from tests.test_compile_step import a_config
from tests.test_out_of_memory import MESSAGE

LOST = "FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Connection closed by"


@pytest.fixture
def leave(monkeypatch):
    """Runs `leave_on_failure` as process 0 of 2; returns the exit codes."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0)

    def run(error, **options) -> list[int]:
        codes = []
        failures.leave_on_failure(type(error), error, None, end=codes.append, **options)
        return codes

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no such file"), 2, "ivx: no such file"),
        (jax.errors.JaxRuntimeError(LOST), 75, "lost another process of this run"),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: heartbeat timeout"), 75, "lost another process"),
        (jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed to compile TPU kernel"), 1, "Mosaic"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes"), 1, "failed"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_exit_code_tells_whether_to_rerun(leave, capsys, error, code, message):
    """75 means that rerunning may help; it does not for errors of the process itself."""
    assert leave(error) == [code]
    assert message in capsys.readouterr().err


def test_out_of_memory_is_explained_by_each_process(leave, capsys):
    config = a_config()

    def explain(error):
        return out_of_memory.explain(config, {"fsdp": 64}, error)

    assert leave(jax.errors.JaxRuntimeError(MESSAGE), explain=explain) == [2]
    output = capsys.readouterr().err
    assert "8.00G bf16[8,65536,8192]" in output and "optim.accumulation" in output


def test_interruption_is_not_a_failure(leave):
    assert leave(Interrupted("saved step 3")) == []
    assert failures.leave_on_failure(None, None, None) is False
