"""A process of several: joins, trains three steps on its share, prints their losses as JSON.

python -m tests.multi_process.steps fsdp=4 context=2
"""

import json
import sys

import jax
import optax

from ivx.models.definition import ModelDefinition
from ivx.parallel import hosts, mesh, rules, shares, start
from ivx.stages.language_model import LanguageModelStage
from ivx.training import abstract
from ivx.training.state import init_state
from tests.batches import random_batch
from tests.small import small_spec

STEPS = 3


def losses(sizes: dict[str, int]) -> list[float]:
    """The losses of the first steps on a mesh over all devices of all processes."""
    devices = mesh.make_mesh(dict.fromkeys(mesh.AXES, 1) | sizes)
    share = shares.pack_share(devices)
    whole = random_batch(8)
    packs = [
        number
        for place in share.places
        for number in range(place * 8 // _places(devices), (place + 1) * 8 // _places(devices))
    ]
    own = jax.tree.map(lambda array: array[packs], whole)
    definition, optimizer = ModelDefinition(small_spec()), optax.adam(1e-2)
    stage = LanguageModelStage(None, [], "square")
    shardings = abstract.state_shardings(definition, optimizer, devices)
    state = jax.jit(lambda: init_state(definition.init(0), optimizer), out_shardings=shardings)()
    step = abstract.jit_step(definition, stage, optimizer, 1, shardings, devices)
    batch, found = rules.put_batch(own, devices), []
    for _ in range(STEPS):
        state, metrics = step(state, {}, batch)
        found.append(float(metrics["loss/total"]))
    return found


def _places(devices) -> int:
    return devices.shape["replica"] * devices.shape["fsdp"]


if __name__ == "__main__":
    start.start(cpu_devices=0)
    hosts.join(seconds=300)
    given = {name: int(size) for name, size in (word.split("=") for word in sys.argv[1:])}
    told = losses(given)
    hosts.wait("end", seconds=300)
    print(json.dumps({"process": jax.process_index(), "losses": told}))
