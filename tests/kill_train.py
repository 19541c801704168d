"""Kills runs with SIGKILL at random moments and starts them again: `python -m tests.kill_train`.

    python -m tests.kill_train --runs=30          the toy of tests/toy.py, killed in steps and saves
    python -m tests.kill_train --runs=5 --real    `ivx train` on synthetic clips; minutes a run

Every other run is killed while a checkpoint is being written. Each is then started again until it
ends by itself. Its losses, and the fingerprints of its last state, have to be those of a run that
nobody killed. Prints what happened as JSON; exits with 1 if a single bit differs.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from tests import command, toy

STEPS, SAVE_EVERY = 40, 4
_PATIENCE = 600.0


class Toy:
    """Starts the toy in processes that are forked off one that has imported the libraries."""

    def __call__(self, workdir: pathlib.Path):
        arguments = [str(workdir), f"--steps={STEPS}", f"--save_every={SAVE_EVERY}"]
        process = command.processes().Process(target=_toy, args=([*arguments, "--pause=0.02"],))
        process.start()
        return process


def _toy(arguments: list[str]) -> None:
    # What a run says would drown what the test says.
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.dup2(silent, 1)
    sys.exit(toy.main(arguments))


class Real:
    """`ivx train` itself."""

    def __init__(self, data: pathlib.Path):
        self._data = data

    def __call__(self, workdir: pathlib.Path):
        from tests import test_resume

        return test_resume.start(workdir, self._data)


def losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
    """Step and loss of every row."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]


def last_state(workdir: pathlib.Path) -> dict:
    """Data position and fingerprints of the newest checkpoint."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return json.loads((workdir / "checkpoints" / str(max(steps)) / "data/metadata").read_text())


def half_written(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is on its way."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill(process, workdir: pathlib.Path, rng: random.Random, seconds: float, saving: bool) -> dict:
    """Kills a run after a random time, or at its n-th save; what state it was in.

    Args:
      seconds: that a whole run takes.
    """
    deadline = time.monotonic() + (_PATIENCE if saving else rng.uniform(0, seconds))
    saves, wanted, was = 0, rng.randrange(1, STEPS // SAVE_EVERY), False
    while time.monotonic() < deadline and process.exitcode is None:
        now = saving and half_written(workdir)
        saves += now and not was
        was = now
        if now and saves == wanted:
            time.sleep(rng.uniform(0, 0.02))
            break
        time.sleep(0.0005 if saving else 0.01)
    alive = process.exitcode is None
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    path = workdir / "metrics.jsonl"
    rows = path.read_text().count("\n") if path.exists() else 0
    return {"killed": alive, "rows": rows, "half_written": half_written(workdir)}


def trial(
    start: Callable, workdir: pathlib.Path, rng: random.Random, seconds: float, saving: bool
) -> dict:
    """One run: killed once, and again with one chance in three, then left alone."""
    kills = []
    while not kills or rng.random() < 1 / 3:
        one = kill(start(workdir), workdir, rng, seconds, saving)
        if one["killed"]:
            kills.append(one)
        elif not kills:
            # It ended before its time had come: another try.
            shutil.rmtree(workdir)
    process = start(workdir)
    process.join()
    return {"kills": kills, "exit": process.exitcode}


def run(start: Callable, folder: pathlib.Path, runs: int, seed: int) -> dict:
    """All trials against one run that nobody kills."""
    whole = folder / "whole"
    # The second is as fast as those to come: compiled programs are found in the cache.
    for workdir in (folder / "first", whole):
        began = time.monotonic()
        process = start(workdir)
        process.join()
        seconds = time.monotonic() - began
        assert process.exitcode == 0, f"the run that nobody kills ended with {process.exitcode}"
    expected, state = losses(whole), last_state(whole)
    rng, trials = random.Random(seed), []
    for number in range(runs):
        workdir = folder / f"run{number}"
        done = trial(start, workdir, rng, seconds, saving=number % 2 == 0)
        same = done["exit"] == 0 and losses(workdir) == expected
        done["same"] = same and last_state(workdir) == state
        trials.append(done)
        print(json.dumps({"run": number} | done), file=sys.stderr, flush=True)
        if done["same"]:
            shutil.rmtree(workdir)
    kills = [one for done in trials for one in done["kills"]]
    return {
        "runs": runs,
        "kills": len(kills),
        "kills_with_a_half_written_checkpoint": sum(one["half_written"] for one in kills),
        "kills_before_the_first_step": sum(one["rows"] == 0 for one in kills),
        "identical": sum(done["same"] for done in trials),
        "steps": len(expected),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    given = parser.parse_args(arguments)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kill-train-"))
    start = Toy()
    if given.real:
        from data_pipelines.synthetic import presets, write

        write.synthesize(folder / "data", presets.PRESETS["test"], seed=3, workers=2)
        start = Real(folder / "data")
    found = run(start, folder, given.runs, given.seed)
    print(json.dumps(found))
    if found["identical"] < found["runs"]:
        print(f"what differs lies in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
