"""A process of several that fails says what happened, with the code that tells what to do."""

import jax
import pytest

from ivx.commands import too_large
from ivx.errors import Interrupted, UserError
from ivx.training import company
from tests.test_compile_step import a_config
from tests.test_too_large import SAID

LOST = "FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Connection closed by"


@pytest.fixture
def leave(monkeypatch):
    """Leaves as the first of two processes; the codes that it ended with."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0)

    def run(error, **more) -> list[int]:
        codes = []
        company.leave_on_failure(type(error), error, None, end=codes.append, **more)
        return codes

    return run


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
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
def test_the_code_tells_whether_to_start_again(leave, capsys, error, code, sentence):
    """75 asks for the same command again, which cures no fault of a program's own."""
    assert leave(error) == [code]
    assert sentence in capsys.readouterr().err


def test_what_does_not_fit_is_explained_by_each_process(leave, capsys):
    config = a_config()

    def explain(error):
        return too_large.explained(config, {"fsdp": 64}, error)

    assert leave(jax.errors.JaxRuntimeError(SAID), explain=explain) == [2]
    said = capsys.readouterr().err
    assert "8.00G bf16[8,65536,8192]" in said and "optim.accumulation" in said


def test_what_all_do_together_is_no_failure(leave):
    assert leave(Interrupted("saved step 3")) == []
    assert company.leave_on_failure(None, None, None) is False
