"""`ivx train`: runs one stage."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import zlib
from typing import Any

import ml_collections

from ivx.commands import config_flag, memory_check, out_of_memory
from ivx.errors import UserError, keeping

SUMMARY = "Train a stage; the same command resumes an interrupted run."
EXAMPLE = (
    "  ivx train --config=sft_short:scratch --workdir=/tmp/ivx/sft \\\n"
    "      --config.data.mixture=/tmp/ivx/data/data.json --config.run.steps=300"
)


details = config_flag.details


def define_flags() -> None:
    config_flag.define()
    config_flag.define_accept_data_change()
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs
    from ivx.training.health import failures

    with contextlib.ExitStack() as stack:
        # Set up before the loop, so that no host waits for one that fails early.
        stack.push(failures.leave_on_failure)
        return train(
            config_flag.read(args),
            workdirs.parse(args.workdir),
            args.accept_data_change,
            args.ignore_memory_forecast,
        )


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    accept_data_change: bool = False,
    ignore_memory_forecast: bool = False,
) -> dict:
    """Trains the stage of a checked config in a workdir, from its newest checkpoint if it has one.

    Args:
      config: checked.
      workdir: of the run.
      accept_data_change: whether a restart may go on with other data.
      ignore_memory_forecast: start even if memory does not seem to suffice.

    Raises:
      UserError: the config, the data or the workdir cannot be used.
    """
    from ivx.parallel import devices, hosts, run_lock

    devices.configure_devices(config.mesh.cpu_devices)
    hosts.join()
    with run_lock.hold(workdir), keeping(f"{workdir} keeps the checkpoints that it has"):
        return _train(config, workdir, accept_data_change, ignore_memory_forecast)


def _train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    accept_data_change: bool,
    ignore_memory_forecast: bool,
) -> dict:
    import jax

    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.parallel import across_hosts, hosts
    from ivx.progress import note
    from ivx.training import loop
    from ivx.training.checkpoints import checkpoint

    # All checks run before the workdir is changed.
    workdirs.check(workdir, config)
    other_length = from_config.changed_length.explain(workdir, config)
    mesh = from_config.mesh.make(config)
    memory_check.check(
        from_config.memory_forecast.training(config, mesh),
        ignore_memory_forecast,
        lambda sizes: memory_check.training_knobs(config, mesh.shape, sizes),
    )
    run = from_config.training.make_run(
        config,
        workdir,
        lambda: from_config.stage.make_stage(config, mesh),
        mesh,
        accept_data_change,
    )
    # Hosts read their data at different speeds.
    hosts.wait("the start of training", seconds=3600)
    if not across_hosts.agree(zlib.crc32(run.config.encode())):
        raise UserError("configs differ across hosts; start all of them with the same command")
    if not across_hosts.agree(zlib.crc32(json.dumps(run.sources).encode())):
        raise UserError("the data differ across hosts; let all of them read the same files")
    if jax.process_index() == 0:
        step = checkpoint.newest_step(workdir, config.watch.remote)
        if changed := workdirs.claim(workdir, config, step):
            note(f"continues with {', '.join(changed)}")
    if other_length:
        note(other_length)
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
