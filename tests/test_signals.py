"""Ctrl-C and SIGTERM act at once, and a command says what is kept and how to go on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ivx import cli, signals
from ivx.errors import Interrupted, keeping
from ivx.training.health import preemption
from tests.command import ROOT

# A command that hashes for minutes inside C, where no handler of Python runs.
BUSY = """
import hashlib, sys
from ivx import cli
sys.modules["busy"] = type(sys)("busy")
def run(args, words):
    print("started", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
sys.modules["busy"].__dict__.update(SUMMARY="", EXAMPLE="", define_flags=lambda: None, run=run)
cli.main("ivx", "", {"busy": "busy"}, sys.argv)
"""


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_signal_is_heard_once_each_and_handlers_return():
    before, numbers = signal.getsignal(signal.SIGTERM), []
    with signals.heard((signal.SIGTERM,), numbers.append):
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda count=count: len(numbers) == count)
    assert numbers == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_inner_listener_takes_over_from_an_outer_one():
    outer, inner = [], []
    with signals.heard((signal.SIGINT,), outer.append, signal.default_int_handler):
        with signals.heard((signal.SIGINT,), inner.append):
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(lambda: inner)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        wait_until(lambda: outer)
    assert (outer, inner) == ([signal.SIGINT], [signal.SIGINT])


def test_ignored_signal_stays_ignored():
    former, numbers = signal.signal(signal.SIGTERM, signal.SIG_IGN), []
    try:
        with signals.heard((signal.SIGTERM,), numbers.append):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert numbers == []


def test_second_ctrl_c_ends_a_command_inside_a_library():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, "busy"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


def test_command_says_what_ctrl_c_keeps_and_how_to_go_on(monkeypatch, capsys):
    def stopped(*arguments: object) -> None:
        with keeping("nothing was written to /tmp/out"):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stopped)
    with pytest.raises(SystemExit) as end:
        cli.main("ivx", "", {"export-hf": ""}, ["ivx", "export-hf", "--out=/tmp/a b"])
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "ivx: stopped by Ctrl-C: nothing was written to /tmp/out;"
        " to go on: ivx export-hf '--out=/tmp/a b'\n"
    )


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, Interrupted.EXIT_CODE), (signal.SIGINT, 130)]
)
def test_notice_takes_effect_between_two_units(number, code):
    before = signal.getsignal(number)
    with preemption.Notice(unit=4) as notice:
        assert not notice.reached(4)
        os.kill(os.getpid(), number)
        wait_until(lambda: notice.reached(8))
        assert [step for step in range(5, 13) if notice.reached(step)] == [8, 12]
    assert signal.getsignal(number) == before
    assert notice.interruption("saved step 8").exit_code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_run_inside_a_step(number):
    program = (
        "import hashlib\n"
        "from ivx.training.health import preemption\n"
        "with preemption.Notice(1):\n"
        "    print('started', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    assert "saving after this step" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(5) == 128 + number
