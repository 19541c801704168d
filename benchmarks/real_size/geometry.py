"""Folders with the geometry of a Qwen3-VL and random bfloat16 weights.

Kernels and tables are normal with a deviation of 0.02, scales of norms are 1, biases 0. Every
tensor has a random stream of its own, so the bytes depend on nothing but geometry and seed. One
block of a tensor is in memory at a time: a shard is a header and then block after block, which is
all that the format of safetensors asks for.
"""

import dataclasses
import json
import math
import pathlib
import shutil
import zlib
from collections.abc import Iterable, Iterator

import ml_dtypes
import numpy as np

from ivx import progress
from ivx.errors import UserError
from ivx.hf import config, json_file, names, processor, shards, text_files, write
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.text import tokenizer as tokenizers

# Large models, and one for trying the benchmark, which is no preset of ivx.
TRIAL = "trial"
NAMES = (TRIAL, "2b", "4b", "8b", "32b")
_BLOCK, _SHARD_BYTES, _SEED, _DEVIATION = 1 << 22, 2e9, 0, 0.02
# Written last: a folder with it is complete.
_LAST = shards.INDEX


def trial(attention: str = "gqa", dtype: str = "float32") -> specs.ModelSpec:
    """About 160 M parameters in the proportions of Qwen3-VL, with a small vocabulary."""
    two = specs.base_2b(attention, dtype)
    return dataclasses.replace(
        two,
        vision=specs.VisionSpec(
            depth=6, width=512, heads=8, mlp=2048, taps=(1, 3, 5), table_side=48
        ),
        text=dataclasses.replace(two.text, depth=8, width=1024, heads=8, mlp=3072, vocab=8192),
    )


def register() -> None:
    """Adds the trial geometry to the presets of this process, before configs are imported."""
    specs.PRESETS[TRIAL] = trial


def definition(name: str) -> ModelDefinition:
    """The model of a geometry, with grouped attention.

    Raises:
      UserError: there is no such geometry.
    """
    if name not in NAMES:
        raise UserError(f"there is no geometry {name!r}; take one of {', '.join(NAMES)}")
    register()
    return ModelDefinition(specs.PRESETS[name]("gqa", "float32"))


def parameters(name: str) -> int:
    """Parameters of a geometry."""
    return sum(math.prod(weight.shape) for weight in names.weights(definition(name)))


def make_folder(folder: pathlib.Path, name: str) -> None:
    """Writes the folder of a geometry, or leaves a complete one as it is."""
    model = definition(name)
    if (folder / _LAST).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = tokenizers.find(tokenizers.COMPACT)
    tokenizer = tokenizers.load(str(path))
    documents = {
        "config.json": config.write_config(model.spec, tokenizer, "bfloat16", ()),
        "generation_config.json": text_files.generation_config(tokenizer),
        "tokenizer_config.json": text_files.tokenizer_config(tokenizer),
        **processor.processor_files(processor.FrameRules()),
    }
    for file, content in documents.items():
        json_file.write(folder / file, content)
    shutil.copyfile(path, folder / "tokenizer.json")
    shutil.copyfile(write.TEMPLATE, folder / write.TEMPLATE.name)
    weight_map = {}
    with progress.Bar(parameters(name), f"making {folder.name}", "numbers") as bar:
        for number, shard in enumerate(_split(names.weights(model)), 1):
            file = f"model-{number:05d}.safetensors"
            _write_shard(folder / file, shard, bar)
            weight_map |= {weight.name: file for weight in shard}
    json_file.write(folder / _LAST, {"metadata": {}, "weight_map": weight_map})


def _split(weights: Iterable[names.Weight]) -> Iterator[list[names.Weight]]:
    """The weights, in order, in shards of about `_SHARD_BYTES`."""
    shard, filled = [], 0
    for weight in weights:
        size = 2 * math.prod(weight.shape)
        if shard and filled + size > _SHARD_BYTES:
            yield shard
            shard, filled = [], 0
        shard.append(weight)
        filled += size
    yield shard


def _write_shard(path: pathlib.Path, weights: list[names.Weight], bar: progress.Bar) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for weight in weights:
        start, end = end, end + 2 * math.prod(weight.shape)
        entry = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [start, end]}
        header[weight.name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights:
            for block in _blocks(weight):
                file.write(block.tobytes())
                bar.advance(block.size)


def _blocks(weight: names.Weight) -> Iterator[np.ndarray]:
    """The numbers of a tensor, bfloat16, block by block."""
    rng = np.random.Generator(np.random.Philox([_SEED, zlib.crc32(weight.name.encode())]))
    left = math.prod(weight.shape)
    while left:
        count = min(left, _BLOCK)
        if weight.path[-1] == "scale":
            block = np.ones(count, np.float32)
        elif weight.path[-1] == "bias":
            block = np.zeros(count, np.float32)
        else:
            block = rng.standard_normal(count, np.float32) * np.float32(_DEVIATION)
        yield block.astype(ml_dtypes.bfloat16)
        left -= count
