"""A run made longer or shorter: `run.steps` may change between two starts.

    rate(step) = schedule of the new run.steps, from the checkpoint on

The learning rate is a function of the step and of `run.steps` alone, so nothing of the former
schedule is carried over, and warm-up and decay are those of the new length. Batches that were used
stay the same: a longer plan begins with the shorter one.
"""

import pathlib

import ml_collections

from ivx import from_config
from ivx import workdir as workdirs
from ivx.errors import UserError
from ivx.training import optimizer
from ivx.training.checkpoints import checkpoint

Config = ml_collections.ConfigDict


def explain(workdir: pathlib.Path, config: Config) -> str:
    """What another `run.steps` than that of the workdir changes; empty if it is the same.

    Raises:
      UserError: a checkpoint has more steps.
    """
    if not (workdir / "config.json").is_file():
        return ""
    before = workdirs.load(workdir)
    old, new = before.run.steps, config.run.steps
    if old == new:
        return ""
    done = checkpoint.newest_step(workdir, config.watch.remote)
    if done > new:
        raise UserError(
            f"{workdir} has a checkpoint of step {done}, so its run cannot end at step {new};"
            f" give run.steps of at least {done}, or another --workdir"
        )
    then, now = (
        float(optimizer.learning_rate(from_config.training.optimizer_spec(c))(done))
        for c in (before, config)
    )
    return (
        f"run.steps {old} -> {new}: from step {done} on the learning rate follows the"
        f" {config.optim.schedule} schedule of {new} steps; it is {now:.3g} at step {done}, where"
        f" that of {old} steps gave {then:.3g}"
    )
