"""A minimal model for the real training loop: a narrow network that learns a sine.

Loop, checkpoints and monitoring are the real ones. As a command it is a run that can be killed, in
a single process or as one of several:

    python -m tests.toy WORKDIR [--steps=N] [--save_every=N] [--pause=SECONDS]
                        [--devices=N] [--port=P --processes=N --index=I]
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from data_pipelines.loader import LoadedBatch
from ivx.errors import Interrupted, UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import devices, hosts
from ivx.parallel.mesh import make_mesh
from ivx.parallel.sharding import AXES
from ivx.stages.protocol import Loss
from ivx.training import loop
from ivx.training.step import PLAIN

PACKS = 8


class Model(nnx.Module):
    """Two layers, sharded over fsdp and tensor like those of the real model."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(16, 32, kernel_metadata={AXES: ("embed", "mlp")}, rngs=rngs)
        self.second = nnx.Linear(32, 16, kernel_metadata={AXES: ("mlp", "embed")}, rngs=rngs)

    def __call__(self, x):
        return self.second(jax.nn.silu(self.first(x)))


class Definition(ModelDefinition):
    """The model without parameters."""

    def __init__(self):
        self._graph, self.abstract = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))

    def init(self, seed: int):
        return nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(seed))))

    def bind(self, params) -> Model:
        state = jax.tree.map(lambda leaf: leaf, self.abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyBatch:
    """Inputs and outputs [B, 16]; `segments` [B, 1] counts one token per row."""

    x: np.ndarray
    y: np.ndarray
    segments: np.ndarray


class Stage:
    """Squared error; batch n is a function of n.

    Args:
      scale: from a batch's number to a factor of its outputs.
      pause: seconds before each batch.
    """

    def __init__(self, scale: Callable[[int], float] = lambda number: 1.0, pause: float = 0.0):
        self._scale, self._pause = scale, pause

    def producer(self, start: int):
        return Producer(self._scale, self._pause, start)

    def validation(self):
        return [batch_of(10**6)]

    def frozen(self, mesh: Mesh):
        del mesh
        return {}

    def loss(self, model: Model, batch: ToyBatch, frozen) -> Loss:
        del frozen
        error = jnp.square(model(batch.x) - batch.y).sum()
        return Loss(error, batch.segments.sum().astype(jnp.float32), {}, {})

    def trains(self, path: tuple[str, ...]) -> bool:
        del path
        return True


class Producer:
    def __init__(self, scale, pause: float, number: int):
        self._scale, self._pause, self._number = scale, pause, number

    def next(self, params) -> LoadedBatch:
        del params
        time.sleep(self._pause)
        number, self._number = self._number, self._number + 1
        batch = batch_of(number)
        batch = dataclasses.replace(batch, y=batch.y * np.float32(self._scale(number)))
        return LoadedBatch(batch, (), samples=tuple(f"{number}/{row}" for row in range(PACKS)))


UNWATCHED = loop.Watch()


def batch_of(number: int) -> ToyBatch:
    """This host's rows: every n-th of n hosts, as in the loader."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(PACKS, 16)).astype(np.float32)
    rows = slice(jax.process_index(), None, jax.process_count())
    return ToyBatch(x[rows], np.sin(x[rows]), np.ones((len(x[rows]), 1), np.int32))


def train(
    workdir: pathlib.Path,
    stage=None,
    sizes=None,
    watch=UNWATCHED,
    definition=None,
    initial_params=None,
    mesh=None,
    **overrides,
):
    """Runs the loop on the toy.

    `overrides` are fields of `Length`, `options`, and the fields of `Run` about its data.
    """
    workdir.mkdir(exist_ok=True, parents=True)
    options = overrides.pop("options", PLAIN)
    data = {
        key: overrides.pop(key) for key in ("sources", "accept_data_change") if key in overrides
    }
    length = loop.Length(
        **(
            {
                "steps": 12,
                "unit": 1,
                "log_every": 1,
                "validate_every": 4,
                "save_every": 4,
                "keep": 2,
            }
            | overrides
        )
    )
    mesh = mesh or make_mesh(sizes or {"replica": 1, "fsdp": -1, "tensor": 1, "context": 1})
    # No moments for frozen parameters, as in every stage.
    adam = options.groups.limit(optax.adamw(3e-3))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam)
    return loop.train(
        loop.Run(
            workdir=workdir,
            config="{}",
            model=definition or Definition(),
            stage=stage or Stage(),
            optimizer=optimizer,
            mesh=mesh,
            length=length,
            options=options,
            watch=watch,
            **data,
            initial_params=initial_params,
        )
    )


def main(argv: list[str]) -> int:
    """Prints errors and returns exit codes as the `ivx` command does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save_every", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--index", type=int, default=0)
    arguments = parser.parse_args(argv)
    devices.configure_devices(arguments.devices)
    if arguments.processes > 1:
        os.environ[hosts.ADDRESS] = f"localhost:{arguments.port}"
        os.environ[hosts.COUNT] = str(arguments.processes)
        os.environ[hosts.NUMBER] = str(arguments.index)
        hosts.join()
    try:
        stage = Stage(pause=arguments.pause)
        result = train(
            arguments.workdir, stage, steps=arguments.steps, save_every=arguments.save_every
        )
    except Interrupted as error:
        print(f"ivx: {error}; the same command goes on from there", file=sys.stderr)
        return error.EXIT_CODE
    except UserError as error:
        print(f"ivx: {error}", file=sys.stderr)
        return 2
    print(result.loss)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
