"""`ivx train`: runs one stage."""

import contextlib
import dataclasses
import functools
import pathlib
import zlib

from ivx.commands import config_flag, too_large
from ivx.errors import UserError

SUMMARY = "Train a stage from an experiment config; started again, it goes on where it stopped."
EXAMPLE = (
    "  ivx train --config=experiments/sft_short.py:scratch --workdir=/tmp/ivx/sft \\\n"
    "      --config.data.mixture=/tmp/ivx/data/data.json --config.run.steps=300"
)


def define_flags() -> None:
    config_flag.define()


def run(given, words: list[str]) -> dict:
    del words
    from ivx import build
    from ivx.training import company

    with contextlib.ExitStack() as stack:
        # Also before the loop, no host waits for one that fails.
        stack.push(company.leave_on_failure)
        return train(config_flag.read(given), build.workdir(given.workdir))


def train(config, workdir: pathlib.Path) -> dict:
    """Trains the stage of a checked config in a workdir, from its newest checkpoint if it has one.

    Raises:
      UserError: something of the config, the data or the workdir cannot be used.
    """
    from ivx import build
    from ivx import config as configs
    from ivx.build import stages, training
    from ivx.parallel import hosts, over_hosts, start
    from ivx.training import loop
    from ivx.training.progress import note

    start.start(config.mesh.cpu_devices)
    hosts.join()
    # Everything that can be wrong is found before the workdir is touched.
    configs.check_workdir(workdir, config)
    mesh = build.mesh(config)
    definition = training.definition(config)
    optimizer = training.optimizer(config)
    first_params = training.start(config, definition)
    stage = stages.stage(config, mesh)
    # Hosts read their data at their own pace.
    hosts.wait("the start of training", seconds=3600)
    if not over_hosts.agree(zlib.crc32(configs.snapshot(config).encode())):
        raise UserError("hosts were given unlike configs; start all of them by the same command")
    if changed := configs.claim_workdir(workdir, config):
        note(f"goes on with {', '.join(changed)}")
    note(
        f"workdir {workdir}, stage {config.stage.name}, numerics: compute in {config.model.dtype},"
        f" float32 masters, {config.stage.reduction} loss, sampling from caches in"
        f" {config.model.cache if config.model.cache != 'compute' else config.model.dtype}"
    )
    with too_large.told(config, dict(mesh.shape)):
        result = loop.train(
            workdir,
            configs.snapshot(config),
            definition,
            stage,
            optimizer,
            mesh,
            training.run_spec(config),
            first_params,
            dataclasses.replace(
                training.watch_spec(config),
                explain=functools.partial(too_large.explained, config, dict(mesh.shape)),
            ),
        )
    watched = "" if result.validation_loss is None else f", validation {result.validation_loss:.4f}"
    print(
        f"trained {result.steps} steps: loss {result.loss:.4f}{watched};"
        f" {result.skipped_steps} steps and {result.skipped_samples} samples skipped;"
        f" {result.tokens_per_second:,.0f} tokens/s"
    )
    return {"workdir": str(workdir)} | dataclasses.asdict(result)
