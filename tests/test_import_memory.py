"""An import holds little memory besides the parameters, as the kernel measures it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ivx.hf import names
from ivx.hf.shards import INDEX
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition

RESET = pathlib.Path("/proc/self/clear_refs")
MIB = 2**20

# The small model runs first, so that one-time imports and start-up are not counted.
PROGRAM = """
import json, pathlib, sys
import jax
from ivx.models.definition import ModelDefinition
from ivx.hf import read
from ivx.training.checkpoints import checkpoint
from tests.test_import_memory import large, small

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder = pathlib.Path(sys.argv[1])
for name, spec in (("small", small()), ("large", large())):
    definition = ModelDefinition(spec)
    before = resident("VmRSS:")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    params = read.read_params(folder / name, definition)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    read_peak = resident("VmHWM:") - before - parameters
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    checkpoint.save_params(folder / (name + "-out"), params, "{}")
    save_peak = resident("VmHWM:") - before - parameters
    peaks = {"read": read_peak, "save": save_peak, "parameters": parameters}
print(json.dumps(peaks))
"""


def small() -> specs.ModelSpec:
    return specs.tiny("gqa")


def large() -> specs.ModelSpec:
    """85 M parameters, most of them in the layers of the decoder."""
    return _with(depth=6, width=1024, mlp=4096)


def _with(**changes: int) -> specs.ModelSpec:
    tiny = specs.tiny("gqa")
    return dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, **changes))


def write(folder: pathlib.Path, spec: specs.ModelSpec, shard_bytes: int) -> int:
    """Writes a bfloat16 checkpoint of incompressible noise; returns its largest shard's size."""
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal(2**22, np.float32).astype(ml_dtypes.bfloat16)
    shards, filled = [{}], 0
    for weight in names.weights(ModelDefinition(spec)):
        tensor = noise[: int(np.prod(weight.shape))].reshape(weight.shape)
        if filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][weight.name] = tensor
        filled += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"{number}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, f"{number}.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.skipif(not RESET.exists(), reason="the kernel does not report peak memory")
def test_peak_memory_is_parameters_plus_one_shard(tmp_path: pathlib.Path):
    """Reading and saving each stay below parameters + 1.3 shards; mapped pages of a shard count."""
    write(tmp_path / "small", small(), MIB)
    shard = write(tmp_path / "large", large(), 48 * MIB)
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 3
    root = pathlib.Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    peaks = json.loads(process.stdout.splitlines()[-1])
    print({name: f"{peak / MIB:.0f} MiB" for name, peak in peaks.items()}, f"{shard / MIB:.0f} MiB")
    assert peaks["parameters"] > 4 * shard
    for step in ("read", "save"):
        assert peaks[step] < 1.3 * shard, peaks
