"""`ivx train`: runs one stage."""

import contextlib
import dataclasses
import functools
import pathlib
import zlib
from typing import Any

import ml_collections

from ivx.commands import config_flag, out_of_memory
from ivx.errors import UserError

SUMMARY = "Train a stage; the same command resumes an interrupted run."
EXAMPLE = (
    "  ivx train --config=sft_short:scratch --workdir=/tmp/ivx/sft \\\n"
    "      --config.data.mixture=/tmp/ivx/data/data.json --config.run.steps=300"
)


def define_flags() -> None:
    config_flag.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs
    from ivx.training.health import failures

    with contextlib.ExitStack() as stack:
        # Set up before the loop, so that no host waits for one that fails early.
        stack.push(failures.leave_on_failure)
        return train(config_flag.read(args), workdirs.parse(args.workdir))


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
    """Trains the stage of a checked config in a workdir, from its newest checkpoint if it has one.

    Raises:
      UserError: the config, the data or the workdir cannot be used.
    """
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import across_hosts, devices, hosts
    from ivx.training import loop
    from ivx.training.progress import note

    devices.configure_devices(config.mesh.cpu_devices)
    hosts.join()
    # All checks run before the workdir is changed.
    workdirs.check(workdir, config)
    mesh = from_config.mesh.make(config)
    run = from_config.training.make_run(
        config, workdir, lambda: from_config.stage.make_stage(config, mesh), mesh
    )
    # Hosts read their data at different speeds.
    hosts.wait("the start of training", seconds=3600)
    if not across_hosts.agree(zlib.crc32(run.config.encode())):
        raise UserError("configs differ across hosts; start all of them with the same command")
    if changed := workdirs.claim(workdir, config):
        note(f"continues with {', '.join(changed)}")
    cache = config.model.cache if config.model.cache != "compute" else config.model.dtype
    note(
        f"workdir {workdir}, stage {config.stage.name}, numerics: compute in {config.model.dtype},"
        f" float32 masters, {config.stage.reduction} loss, sampling from caches in {cache}"
    )
    explain = functools.partial(out_of_memory.explain, config, dict(mesh.shape))
    with out_of_memory.explaining(config, dict(mesh.shape)):
        result = loop.train(
            dataclasses.replace(run, watch=dataclasses.replace(run.watch, explain=explain))
        )
    validation = (
        "" if result.validation_loss is None else f", validation {result.validation_loss:.4f}"
    )
    print(
        f"trained {result.steps} steps: loss {result.loss:.4f}{validation};"
        f" {result.skipped_steps} steps and {result.skipped_samples} samples skipped;"
        f" {result.tokens_per_second:,.0f} tokens/s"
    )
    return {"workdir": str(workdir)} | dataclasses.asdict(result)
