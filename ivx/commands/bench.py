"""`ivx bench`: times the training step of a config on this machine, without data.

The batch is full: each pack is one sample of random tokens and patches. Stages gspo and opd are
timed by their update step, without sampling.
"""

import statistics
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from data_pipelines import random_pack
from data_pipelines.batch import Batch
from ivx.commands import config_flag, out_of_memory
from ivx.errors import UserError
from ivx.models import spec

SUMMARY = "Time the training step of a config on this machine, without data."
EXAMPLE = """\
  ivx bench --config=cpt:tiny --steps=10
  ivx bench --config=sft_long:8b --config.mesh.fsdp=8 --steps=5"""


def define_flags() -> None:
    config_flag.define_config()
    flags.DEFINE_integer("steps", 10, "Steps to time, after one warm-up step.", lower_bound=1)
    flags.DEFINE_enum("teacher", "tiny", list(spec.PRESETS), "Preset of the teacher of opd.")


def run(args: Any, words: list[str]) -> dict:
    del words
    config = config_flag.read_without_data(args)
    if config.stage.name == "convert":
        raise UserError("stage convert has no training step to time; give another --config")
    from ivx import from_config
    from ivx.parallel import devices, hosts

    devices.configure_devices(config.mesh.cpu_devices)
    hosts.join()
    mesh = from_config.mesh.make(config)
    with out_of_memory.explaining(config, dict(mesh.shape)):
        result = bench(config, mesh, args.teacher, args.steps)
    low, high = result["step_ms_min"], result["step_ms_max"]
    memory, mfu = result["memory_gib"], result["mfu"]
    print(f"{result['devices']} x {result['device']}, {result['parameters']:,} parameters")
    print(f"compiled in {result['compile_seconds']:.1f} s (less if it was in the cache)")
    print(f"step: {result['step_ms']:.1f} ms median, {low:.1f} to {high:.1f} ms")
    print(f"tokens/s: {result['tokens_per_second']:,.0f}")
    print(f"peak memory: {f'{memory:.2f} GiB per device' if memory else 'not reported'}")
    print(f"MFU: {f'{mfu:.1%}' if mfu else 'unknown, since the peak of this device is'}")
    return result


def bench(config: ml_collections.ConfigDict, mesh: Mesh, teacher: str, steps: int) -> dict:
    """Compiles and times the training step of a config.

    Args:
      config: a checked config.
      mesh: devices.
      teacher: preset of the teacher of opd.
      steps: steps to time.
    """
    from ivx import from_config
    from ivx.parallel import batches
    from ivx.training import meter, utilisation

    program = from_config.programs.program(config, mesh, teacher)
    state, frozen = _state(config, program.arguments[0]), _filled(program.arguments[1])
    packs = config.data.batch_packs // batches.pack_share(mesh).count
    vocabulary = from_config.model.load_tokenizer(config).vocab_size
    pack = random_pack.make(from_config.data.pack_shape(config), vocabulary)
    host_batch = jax.tree.map(lambda array: np.repeat(array[None], packs, 0), pack)
    batch = batches.put_batch(_stage_batch(config, host_batch), mesh)
    start = time.perf_counter()
    step = program.function.lower(state, frozen, batch).compile()
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        times.append(1e3 * (time.perf_counter() - start))
    device, median = jax.devices()[0], statistics.median(times[1:])
    definition = from_config.model.definition(config)
    flops = utilisation.useful(definition.spec, host_batch) * config.data.batch_packs / packs
    peak = utilisation.peak(device)
    return {
        "device": device.device_kind,
        "devices": mesh.size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "compile_seconds": compile_seconds,
        "step_ms": median,
        "step_ms_min": min(times[1:]),
        "step_ms_max": max(times[1:]),
        "tokens_per_second": 1e3 * config.data.batch_packs * config.data.pack_tokens / median,
        "memory_gib": meter.memory().get("memory/device_gib"),
        # Of the model that trains: the forward pass of a teacher is not counted.
        "mfu": flops / (1e-3 * median * mesh.size * peak) if peak else None,
        "loss": float(metrics["loss/total"]),
    }


def _state(config: ml_collections.ConfigDict, abstract: Any) -> Any:
    """A new `ivx.training.step.TrainState` with the shardings of an abstract one."""
    from ivx import from_config
    from ivx.training import step

    definition = from_config.model.training_definition(config)
    optimizer = from_config.training.optimizer(config)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    init = jax.jit(
        lambda: step.init_state(definition.init(0), optimizer, config.optim.ema > 0),
        out_shardings=shardings,
    )
    return init()


def _filled(abstract: Any) -> Any:
    """Arrays of 0.01 for abstract ones: the teacher's values do not matter for the time."""
    if not abstract:
        return abstract
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    fill = jax.jit(
        lambda: jax.tree.map(lambda leaf: jax.numpy.full(leaf.shape, 0.01, leaf.dtype), abstract),
        out_shardings=shardings,
    )
    return fill()


def _stage_batch(config: ml_collections.ConfigDict, batch: Batch) -> Any:
    """The batch as the stage takes it; gspo adds old log-probabilities and advantages."""
    if config.stage.name != "gspo":
        return batch
    from ivx.stages.gspo import GspoBatch

    ones = np.ones_like(batch.weights)
    return GspoBatch(batch, -ones, ones, ones[:, 0])
