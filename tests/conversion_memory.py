"""What a conversion holds in memory: arithmetic for 8B, and a smaller model measured beside it.

    python -m tests.conversion_memory

A model of some 100 MB is converted in a process of its own; peaks are read from the kernel, and
compared with the same arithmetic.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

from ivx.models import spec as specs

GB = 1e9
ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import json, pathlib
import jax, numpy as np
from data_pipelines.batch import Batch
from ivx.conversion import convert, halved, statistics
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from tests.conversion_memory import scaled, small

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def reset():
    pathlib.Path("/proc/self/clear_refs").write_text("5")

def words(vocab):
    tokens = np.random.default_rng(0).integers(0, vocab, (1, 128)).astype(np.int32)
    ones, positions = np.ones_like(tokens), np.broadcast_to(np.arange(128), (1, 3, 128))
    return Batch(tokens, ones, positions.astype(np.int32), tokens, ones.astype(np.float32),
                 -ones, np.zeros((1, 48, 1536), np.uint8), np.zeros((1, 48), np.int32),
                 np.zeros((1, 48, 4), np.int32), 48)

mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
for spec in (small(), scaled()):
    definition = ModelDefinition(spec)
    params = definition.init(0)
    params = jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), params)
    before = resident("VmRSS:")
    reset()
    halved.halve(params)
    batch = words(spec.text.vocab)
    sums = statistics.collect(definition, params, lambda first: [batch] * (2 - first), mesh)
    passed = resident("VmHWM:") - before
    reset()
    made = convert.convert(definition, params, sums, Method(rotation="weighted", turn="mean",
                                                            weighting="output"))
    solved = resident("VmHWM:") - before
print(json.dumps({"pass": passed, "solve": solved}))
"""


def small() -> specs.ModelSpec:
    return specs.tiny("gqa")


def scaled() -> specs.ModelSpec:
    """As tiny, with a decoder of eight layers of 512 and eight key-value heads of 64."""
    tiny = specs.tiny("gqa")
    text = dataclasses.replace(
        tiny.text,
        depth=8,
        width=512,
        heads=16,
        head_dim=64,
        kv_heads=8,
        kv_rank=448,
        mrope_sections=(12, 10, 10),
    )
    return dataclasses.replace(tiny, text=text)


def holdings(text: specs.TextSpec) -> dict[str, float]:
    """Bytes of what is held at once, by name; the source and activations aside."""
    wide, narrow = text.heads * text.head_dim, text.kv_heads * text.head_dim
    inputs, rest = text.width + 1, (2 * text.kv_heads - 1) * text.head_dim
    moments = inputs**2 + inputs * (wide + 2 * narrow) + 4 * narrow**2 + wide * text.head_dim
    kept = text.kv_rank + text.head_dim
    made = inputs * (2 * wide + kept) + text.kv_rank * 2 * wide
    # q, k, v, o twice (as read, and by heads), the queries and keys of the result, square roots.
    one = 2 * inputs * 2 * (wide + narrow) + made + 6 * rest**2 + 3 * inputs * rest
    return {
        "sums, float64": 8 * text.depth * moments,
        "sums of a batch, float32": 4 * text.depth * moments,
        "fitted queries and keys, float64": 8 * text.depth * inputs * (wide + narrow),
        "new attention, float32": 4 * text.depth * made,
        "one layer at work, float64": 8 * one,
    }


def main() -> None:
    spec = specs.base_8b("gqa")
    source = (2 * 8.19e9 + 4 * 0.576e9) / GB
    print("8B, GB")
    print(f"  {'source, decoder in bfloat16':36s} {source:6.1f}")
    found = {name: size / GB for name, size in holdings(spec.text).items()}
    for name, size in found.items():
        print(f"  {name:36s} {size:6.1f}")
    batch = "sums of a batch, float32"
    passing = source + found["sums, float64"] + found[batch]
    solving = source + sum(size for name, size in found.items() if name != batch)
    print(f"  {'reading, all in float32':36s} {4 * 8.767:6.1f}")
    print(f"  {'the pass, besides activations':36s} {passing:6.1f}")
    print(f"  {'the algebra':36s} {solving:6.1f}")

    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured = json.loads(told.stdout.splitlines()[-1])
    small_parts = {name: size / 1e6 for name, size in holdings(scaled().text).items()}
    expected = {
        "pass": small_parts["sums, float64"] + small_parts[batch],
        "solve": sum(size for name, size in small_parts.items() if name != batch),
    }
    print("a smaller model, MB above the source: expected, measured")
    for name, size in expected.items():
        print(f"  {name:36s} {size:6.0f} {measured[name] / 1e6:6.0f}")


if __name__ == "__main__":
    main()
