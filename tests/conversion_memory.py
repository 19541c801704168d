"""Estimates the host memory of an 8B conversion and checks the estimate on a smaller model.

    python -m tests.conversion_memory

A subprocess converts a model of some 100 MB. Its peak memory, as the kernel reports it, is compared
with the same estimate.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

from ivx.conversion import memory
from ivx.models import spec as specs

GB = 1e9
ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import json, pathlib
import jax, numpy as np
from data_pipelines.batch import Batch
from ivx.conversion import convert, lossless_bfloat16, statistics
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from tests.conversion_memory import scaled, small

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def reset():
    pathlib.Path("/proc/self/clear_refs").write_text("5")

def text_batch(vocab):
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
    lossless_bfloat16.compact(params)
    batch = text_batch(spec.text.vocab)
    sums = statistics.collect(definition, params, lambda first: [batch] * (2 - first), mesh)
    pass_peak = resident("VmHWM:") - before
    reset()
    method = Method(rotation="weighted", mean_rotation=True, weighting="output")
    converted = convert.convert(definition, params, sums, method)
    algebra_peak = resident("VmHWM:") - before
print(json.dumps({"pass": pass_peak, "algebra": algebra_peak}))
"""


def small() -> specs.ModelSpec:
    return specs.tiny("gqa")


def scaled() -> specs.ModelSpec:
    """The tiny model with a decoder of eight layers of 512 and eight key-value heads of 64."""
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


def peaks(sizes: dict[str, float]) -> dict[str, float]:
    """Peak memory of the pass and of the algebra."""
    return {
        "pass": sizes[memory.SUMS] + sizes[memory.BATCH_SUMS],
        "algebra": sum(size for name, size in sizes.items() if name != memory.BATCH_SUMS),
    }


def main() -> None:
    source = (2 * 8.19e9 + 4 * 0.576e9) / GB
    print("8B, GB")
    print(f"  {'source, decoder in bfloat16':36s} {source:6.1f}")
    sizes = {name: size / GB for name, size in memory.sizes(specs.base_8b("gqa").text).items()}
    for name, size in sizes.items():
        print(f"  {name:36s} {size:6.1f}")
    print(f"  {'reading, all in float32':36s} {4 * 8.767:6.1f}")
    print(f"  {'pass, without activations':36s} {source + peaks(sizes)['pass']:6.1f}")
    print(f"  {'algebra':36s} {source + peaks(sizes)['algebra']:6.1f}")

    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    measured = json.loads(output.splitlines()[-1])
    expected = peaks({name: size / 1e6 for name, size in memory.sizes(scaled().text).items()})
    print("smaller model, MB above the source: expected, measured")
    for name, size in expected.items():
        print(f"  {name:36s} {size:6.0f} {measured[name] / 1e6:6.0f}")


if __name__ == "__main__":
    main()
