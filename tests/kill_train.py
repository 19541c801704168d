"""Kills runs with SIGKILL at random times and restarts them: `python -m tests.kill_train`.

    python -m tests.kill_train --runs=30          the toy of tests/toy.py, killed in steps and saves
    python -m tests.kill_train --runs=5 --real    `ivx train` on synthetic clips; minutes per run

Every other run is killed while it writes a checkpoint. Each is restarted until it finishes. Its
losses, and the fingerprints of its last state, must equal those of an uninterrupted run. Prints the
results as JSON; exits with 1 if a single bit differs.
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
    """Starts the toy in processes forked from one that has imported the libraries."""

    def __call__(self, workdir: pathlib.Path):
        arguments = [str(workdir), f"--steps={STEPS}", f"--save_every={SAVE_EVERY}"]
        process = command.processes().Process(target=_toy, args=([*arguments, "--pause=0.02"],))
        process.start()
        return process


def _toy(arguments: list[str]) -> None:
    # The output of the runs would hide that of the test.
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
    """Step and loss of every row with a loss."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]


def last_state(workdir: pathlib.Path) -> dict:
    """Data position and fingerprints of the newest checkpoint."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return json.loads((workdir / "checkpoints" / str(max(steps)) / "data/metadata").read_text())


def half_written(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill(process, workdir: pathlib.Path, rng: random.Random, seconds: float, saving: bool) -> dict:
    """Kills a run at a random time or in a random save; returns the state it was in.

    Args:
      process: the run.
      workdir: of the run.
      rng: for the time or the save.
      seconds: duration of a complete run.
      saving: whether to kill the run during a save.
    """
    deadline = time.monotonic() + (_PATIENCE if saving else rng.uniform(0, seconds))
    saves, target, was_saving = 0, rng.randrange(1, STEPS // SAVE_EVERY), False
    while time.monotonic() < deadline and process.exitcode is None:
        is_saving = saving and half_written(workdir)
        saves += is_saving and not was_saving
        was_saving = is_saving
        if is_saving and saves == target:
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
    """One run: killed once, again with probability 1/3 each time, then left to finish."""
    kills = []
    while not kills or rng.random() < 1 / 3:
        result = kill(start(workdir), workdir, rng, seconds, saving)
        if result["killed"]:
            kills.append(result)
        elif not kills:
            # It finished before the kill: try again.
            shutil.rmtree(workdir)
    process = start(workdir)
    process.join()
    return {"kills": kills, "exit": process.exitcode}


def run(start: Callable, folder: pathlib.Path, runs: int, seed: int) -> dict:
    """Compares all trials with an uninterrupted run."""
    reference = folder / "reference"
    # The second one measures the duration: like the trials it finds compiled programs in the cache.
    for workdir in (folder / "first", reference):
        began = time.monotonic()
        process = start(workdir)
        process.join()
        seconds = time.monotonic() - began
        assert process.exitcode == 0, f"the uninterrupted run exited with {process.exitcode}"
    expected, state = losses(reference), last_state(reference)
    rng, trials = random.Random(seed), []
    for number in range(runs):
        workdir = folder / f"run{number}"
        result = trial(start, workdir, rng, seconds, saving=number % 2 == 0)
        same = result["exit"] == 0 and losses(workdir) == expected
        result["same"] = same and last_state(workdir) == state
        trials.append(result)
        print(json.dumps({"run": number} | result), file=sys.stderr, flush=True)
        if result["same"]:
            shutil.rmtree(workdir)
    kills = [kill for result in trials for kill in result["kills"]]
    return {
        "runs": runs,
        "kills": len(kills),
        "kills_with_a_half_written_checkpoint": sum(kill["half_written"] for kill in kills),
        "kills_before_the_first_step": sum(kill["rows"] == 0 for kill in kills),
        "identical": sum(result["same"] for result in trials),
        "steps": len(expected),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    flags = parser.parse_args(arguments)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kill-train-"))
    start = Toy()
    if flags.real:
        from data_pipelines.synthetic import presets, write

        write.synthesize(folder / "data", presets.PRESETS["test"], seed=3, workers=2)
        start = Real(folder / "data")
    result = run(start, folder, flags.runs, flags.seed)
    print(json.dumps(result))
    if result["identical"] < result["runs"]:
        print(f"the runs that differ are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
