"""The smallest thing that the training loop runs: a narrow network that learns a sine.

Loop, checkpoints and everything that watches over a run are the real ones. As a command it is a run
that can be killed, by itself or as one process of several:

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

from data_pipelines.loader import Loaded
from ivx.errors import Interrupted, UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import hosts, start
from ivx.parallel.mesh import make_mesh
from ivx.parallel.rules import AXES
from ivx.stages.protocol import Loss
from ivx.training import loop

PACKS = 8


class Model(nnx.Module):
    """Two layers, spread over fsdp and tensor as those of the real model are."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(16, 32, kernel_metadata={AXES: ("embed", "mlp")}, rngs=rngs)
        self.second = nnx.Linear(32, 16, kernel_metadata={AXES: ("mlp", "embed")}, rngs=rngs)

    def __call__(self, x):
        return self.second(jax.nn.silu(self.first(x)))


class Definition(ModelDefinition):
    """The model without its parameters."""

    def __init__(self):
        self._graph, self.abstract = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))

    def init(self, seed: int):
        return nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(seed))))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyBatch:
    """Inputs and outputs [B, 16]; `segments` [B, 1] counts a token a row."""

    x: np.ndarray
    y: np.ndarray
    segments: np.ndarray


class Stage:
    """Squared error; batch number n is a function of n alone.

    Args:
      spoil: from a batch's number to what its outputs are multiplied with.
      pause: seconds that a batch takes to come.
    """

    def __init__(self, spoil: Callable[[int], float] = lambda number: 1.0, pause: float = 0.0):
        self._spoil, self._pause = spoil, pause

    def producer(self, start: int):
        return Producer(self._spoil, self._pause, start)

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
    def __init__(self, spoil, pause: float, number: int):
        self._spoil, self._pause, self._number = spoil, pause, number

    def next(self, params) -> Loaded:
        del params
        time.sleep(self._pause)
        number, self._number = self._number, self._number + 1
        batch = batch_of(number)
        batch = dataclasses.replace(batch, y=batch.y * np.float32(self._spoil(number)))
        return Loaded(batch, (), samples=tuple(f"{number}/{row}" for row in range(PACKS)))


def batch_of(number: int) -> ToyBatch:
    """This host's rows: every n-th, as the loader deals packs to n hosts."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(PACKS, 16)).astype(np.float32)
    own = slice(jax.process_index(), None, jax.process_count())
    return ToyBatch(x[own], np.sin(x[own]), np.ones((len(x[own]), 1), np.int32))


def train(
    workdir: pathlib.Path,
    stage=None,
    sizes=None,
    watch=loop.UNWATCHED,
    definition=None,
    **changed,
):
    """Runs the loop on the toy; `changed` are fields of `RunSpec`."""
    workdir.mkdir(exist_ok=True, parents=True)
    spec = loop.RunSpec(
        **(
            {
                "steps": 12,
                "seed": 0,
                "accumulation": 1,
                "unit": 1,
                "log_every": 1,
                "validate_every": 4,
                "save_every": 4,
                "keep": 2,
            }
            | changed
        )
    )
    mesh = make_mesh(sizes or {"replica": 1, "fsdp": -1, "tensor": 1, "context": 1})
    # Without moments for what is frozen, as every stage has it.
    adam = spec.options.parts.limit(optax.adamw(3e-3))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam)
    return loop.train(
        workdir,
        "{}",
        definition or Definition(),
        stage or Stage(),
        optimizer,
        mesh,
        spec,
        watch=watch,
    )


def main(arguments: list[str]) -> int:
    """As the `ivx` command does, errors become a sentence and a code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save_every", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--index", type=int, default=0)
    given = parser.parse_args(arguments)
    start.start(given.devices)
    if given.processes > 1:
        os.environ[hosts.ADDRESS] = f"localhost:{given.port}"
        os.environ[hosts.COUNT] = str(given.processes)
        os.environ[hosts.NUMBER] = str(given.index)
        hosts.join()
    try:
        stage = Stage(pause=given.pause)
        result = train(given.workdir, stage, steps=given.steps, save_every=given.save_every)
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
