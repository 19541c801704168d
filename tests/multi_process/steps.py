"""One of several processes: trains three steps on its share and prints the losses as JSON.

python -m tests.multi_process.steps fsdp=4 context=2
"""

import json
import sys

import jax
import optax
from jax.sharding import Mesh

from ivx.models.definition import ModelDefinition
from ivx.parallel import batches, devices, hosts, mesh
from ivx.stages.language_model import LanguageModelStage
from ivx.training import step as training_step
from ivx.training.step import init_state
from tests.batches import random_batch
from tests.small import small_spec

STEPS = 3


def losses(sizes: dict[str, int]) -> list[float]:
    """Losses of the first steps on a mesh over all devices of all processes."""
    devices = mesh.make_mesh(dict.fromkeys(mesh.AXES, 1) | sizes)
    share = batches.pack_share(devices)
    full = random_batch(8)
    packs = [
        number
        for position in share.positions
        for number in range(
            position * 8 // _positions(devices), (position + 1) * 8 // _positions(devices)
        )
    ]
    own = jax.tree.map(lambda array: array[packs], full)
    definition, optimizer = ModelDefinition(small_spec()), optax.adam(1e-2)
    stage = LanguageModelStage(None, [], "square")
    shardings = training_step.state_shardings(definition, optimizer, devices)
    state = jax.jit(lambda: init_state(definition.init(0), optimizer), out_shardings=shardings)()
    step = training_step.jit_step(definition, stage, optimizer, shardings, devices)
    batch, step_losses = batches.put_batch(own, devices), []
    for _ in range(STEPS):
        state, metrics = step(state, {}, batch)
        step_losses.append(float(metrics["loss/total"]))
    return step_losses


def _positions(devices: Mesh) -> int:
    return devices.shape["replica"] * devices.shape["fsdp"]


if __name__ == "__main__":
    devices.configure_devices(cpu_devices=0)
    hosts.join(seconds=300)
    sizes = {name: int(size) for name, size in (argument.split("=") for argument in sys.argv[1:])}
    step_losses = losses(sizes)
    hosts.wait("end", seconds=300)
    print(json.dumps({"process": jax.process_index(), "losses": step_losses}))
