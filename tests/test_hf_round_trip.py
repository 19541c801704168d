"""Export and import of weights: bitwise, through the index, with every mismatch in one error."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ivx.errors import UserError
from ivx.hf import names, processor, read, shards, write
from ivx.hf.shards import INDEX, SINGLE
from ivx.models.definition import ModelDefinition, Params
from ivx.text import compact_tokenizer
from tests.conftest import small_spec

SMALL_SHARD = 100_000


@pytest.fixture(scope="module")
def noisy(params: Params) -> Params:
    """Parameters without zeros or ones, so that no two arrays are alike."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(np.float32), params
    )


@pytest.fixture(scope="module")
def exported(
    definition: ModelDefinition, noisy: Params, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A float32 export in many shards."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    export(folder, definition, noisy, dtype="float32", shard_bytes=SMALL_SHARD)
    return folder


def export(
    folder: pathlib.Path, definition: ModelDefinition, params: Params, **options: Any
) -> None:
    rules = processor.FrameRules()
    write.export(folder, definition, params, compact_tokenizer.PATH, rules, {}, **options)


def single(folder: pathlib.Path, definition: ModelDefinition, params: Params) -> pathlib.Path:
    """Writes the weights to one file."""
    folder.mkdir()
    shards.write_params(folder, definition, params, np.dtype(np.float32), 1e12)
    return folder / SINGLE


def assert_equal(a: Params, b: Params) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype == np.float32
        np.testing.assert_array_equal(left, right)


def test_float32_round_trip_is_bitwise(
    definition: ModelDefinition, noisy: Params, exported: pathlib.Path
):
    assert_equal(read.read_params(exported, definition), noisy)


def test_shards_respect_their_limit_and_the_index_is_complete(
    exported: pathlib.Path, definition: ModelDefinition, noisy: Params
):
    index = json.loads((exported / INDEX).read_text())
    files = sorted(path.name for path in exported.glob("*.safetensors"))
    count = len(files)
    assert count > 3 and files[0] == f"model-00001-of-{count:05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == files
    parameters = sum(leaf.size for leaf in jax.tree.leaves(noisy))
    assert index["metadata"] == {"total_parameters": parameters, "total_size": 4 * parameters}
    for file in files:
        tensors = load_file(exported / file)
        assert sum(a.nbytes for a in tensors.values()) <= SMALL_SHARD or len(tensors) == 1
        with safe_open(exported / file, "np") as shard:
            assert shard.metadata() == {"format": "pt"}


def test_bfloat16_round_trip_is_bitwise_in_both_directions(
    definition: ModelDefinition, noisy: Params, tmp_path: pathlib.Path
):
    """Folder -> parameters -> folder gives the same bytes; so do rounded parameters."""
    export(tmp_path / "first", definition, noisy)
    tree = read.read_params(tmp_path / "first", definition)
    assert_equal(
        tree, jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), noisy)
    )
    export(tmp_path / "second", definition, tree)
    first, second = (tmp_path / name / SINGLE for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_linear_weights_are_written_transposed(
    definition: ModelDefinition, noisy: Params, tmp_path: pathlib.Path
):
    """A writer that ignored strides would store the wrong order."""
    tensors = load_file(single(tmp_path / "x", definition, noisy))
    gate = noisy["language_model"]["layers"]["mlp"]["gate_proj"]["kernel"]
    np.testing.assert_array_equal(
        tensors["model.language_model.layers.2.mlp.gate_proj.weight"], gate[2].T
    )
    np.testing.assert_array_equal(tensors["lm_head.weight"], noisy["lm_head"]["kernel"].T)


@pytest.fixture(scope="module")
def tied() -> ModelDefinition:
    spec = small_spec()
    return ModelDefinition(
        dataclasses.replace(spec, text=dataclasses.replace(spec.text, tied=True))
    )


def test_tied_model_stores_one_table(tied: ModelDefinition, tmp_path: pathlib.Path):
    """An export has no lm_head; a redundant one in a folder must equal the embedding."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), tied.abstract_params)
    path = single(tmp_path / "x", tied, params)
    tensors = load_file(path)
    assert names.HEAD not in tensors
    assert_equal(read.read_params(path.parent, tied), params)

    save_file(tensors | {names.HEAD: tensors[names.EMBEDDING]}, path)
    assert_equal(read.read_params(path.parent, tied), params)
    other = tensors[names.EMBEDDING].copy()
    other[-1, -1] += 1e-3
    save_file(tensors | {names.HEAD: other}, path)
    with pytest.raises(UserError, match=r"lm_head\.weight of model.safetensors differs from model"):
        read.read_params(path.parent, tied)


def test_index_locates_tensors_whatever_the_shards_are_called(
    definition: ModelDefinition, noisy: Params, exported: pathlib.Path, tmp_path: pathlib.Path
):
    index = json.loads((exported / INDEX).read_text())
    for number, file in enumerate(sorted(set(index["weight_map"].values()))):
        odd = f"model-language-{number:04d}-fused-save_rank0.safetensors"
        (tmp_path / odd).write_bytes((exported / file).read_bytes())
        for name, shard in index["weight_map"].items():
            if shard == file:
                index["weight_map"][name] = odd
    # Files that the index does not name are ignored.
    (tmp_path / "model-00001-of-00009.safetensors").write_bytes(b"not a shard")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"]}))
    assert_equal(read.read_params(tmp_path, definition), noisy)


def test_error_lists_every_mismatch(
    definition: ModelDefinition, noisy: Params, tmp_path: pathlib.Path
):
    path = single(tmp_path / "x", definition, noisy)
    tensors = load_file(path)
    layer = "model.language_model.layers"
    del tensors[f"{layer}.0.mlp.up_proj.weight"], tensors[f"{layer}.2.mlp.up_proj.weight"]
    del tensors["lm_head.weight"]
    tensors["model.visual.extra.weight"] = np.zeros(3, np.float32)
    tensors[f"{layer}.1.mlp.down_proj.weight"] = np.zeros((2, 3), np.float32)
    tensors[f"{layer}.1.input_layernorm.weight"] = np.zeros(48, np.int8)
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        read.read_params(path.parent, definition)
    message = str(error.value)
    for part in (
        f"missing lm_head.weight, {layer}.{{0,2}}.mlp.up_proj.weight",
        "unexpected model.visual.extra.weight",
        f"{layer}.1.mlp.down_proj.weight of {SINGLE} is [2, 3], expected [48, 64]",
        f"{layer}.1.input_layernorm.weight of {SINGLE} is of type I8",
    ):
        assert part in message
    assert "\n" not in message


def test_tensor_absent_from_its_shard_is_reported_missing(
    definition: ModelDefinition, noisy: Params, tmp_path: pathlib.Path
):
    path = single(tmp_path / "x", definition, noisy)
    weight_map = {name: path.name for name in load_file(path)} | {"model.ghost": path.name}
    (path.parent / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"missing lm_head\.weight; unexpected model\.ghost"):
        read.read_params(path.parent, definition)


@pytest.mark.parametrize("damage", ["header", "cut", "empty"])
def test_damaged_shard_is_rejected(
    definition: ModelDefinition, noisy: Params, tmp_path: pathlib.Path, damage: str
):
    path = single(tmp_path / "x", definition, noisy)
    content = path.read_bytes()
    path.write_bytes(
        {"header": b"\xff" * 64 + content[64:], "cut": content[:-9], "empty": b""}[damage]
    )
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: .*; download it again"):
        read.read_params(path.parent, definition)


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c:\\x.safetensors", "x.bin"],
)
def test_index_cannot_point_outside_its_folder(
    definition: ModelDefinition, tmp_path: pathlib.Path, file: str
):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    with pytest.raises(UserError, match=r"expected a \.safetensors file in the same"):
        read.read_params(tmp_path, definition)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pytorch_model.bin", "", "can execute code when it is opened"),
        ("notes.txt", "", "neither model.safetensors.index.json nor model.safetensors"),
        (INDEX, "{", "is damaged"),
        (INDEX, "[]", "holds no JSON object"),
        (INDEX, '{"weight_map": {"a": 1}}', "does not map tensors to files"),
        (INDEX, '{"weight_map": {"a": "b.safetensors"}}', "b.safetensors is missing"),
    ],
)
def test_folder_without_weights_is_rejected(
    definition: ModelDefinition, tmp_path: pathlib.Path, file: str, content: str, message: str
):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        read.read_params(tmp_path, definition)


def test_export_overwrites_nothing_and_leaves_no_partial_folder(
    definition: ModelDefinition,
    noisy: Params,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        export(tmp_path / "taken", definition, noisy)
    with pytest.raises(UserError, match="'int4' is not one of bfloat16, float32"):
        export(tmp_path / "typed", definition, noisy, dtype="int4")
    monkeypatch.setattr(write.cards, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(tmp_path / "cut", definition, noisy)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
