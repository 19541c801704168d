"""What `ivx import-hf` cannot use: one sentence that names file and key, and no workdir."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ivx.hf import processor, write
from ivx.hf.index import INDEX
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.text import compact_tokenizer
from tests.command import ivx, refused

SHARD = "model-00002-of-00003.safetensors"
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """A folder of the tiny preset that could be imported, in three shards."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    definition = ModelDefinition(spec.tiny("gqa"))
    params = _zeros(definition.abstract_params)
    rules = processor.FrameRules()
    write.export(
        folder, definition, params, compact_tokenizer.PATH, rules, {}, "bfloat16", shard_bytes=3e6
    )
    assert sorted(path.name for path in folder.glob("*.safetensors"))[1] == SHARD
    return folder


def _zeros(tree: dict) -> dict:
    return {
        key: _zeros(value) if isinstance(value, dict) else np.zeros(value.shape, np.float32)
        for key, value in tree.items()
    }


def edit(path: pathlib.Path, change) -> None:
    """Rewrites a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut_a_shard(folder: pathlib.Path) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:-1000])


def quantize_a_tensor(folder: pathlib.Path) -> None:
    file = json.loads((folder / INDEX).read_text())["weight_map"][NORM]
    tensors = load_file(folder / file)
    tensors[NORM] = tensors[NORM].astype(np.int8)
    save_file(tensors, folder / file)


def offer_pickles(folder: pathlib.Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def lose_a_shard(folder: pathlib.Path) -> None:
    (folder / SHARD).unlink()


def lead_out_of_the_folder(folder: pathlib.Path) -> None:
    edit(folder / INDEX, lambda index: index["weight_map"].update({NORM: "../other.safetensors"}))


def forget_and_invent_tensors(folder: pathlib.Path) -> None:
    def change(index):
        index["weight_map"]["model.ghost"] = index["weight_map"].pop(NORM)

    edit(folder / INDEX, change)


def be_of_another_family(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="qwen2_vl"))


def be_a_language_model(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')


def have_other_patches(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config["vision_config"].update(patch_size=14))


def have_sizes_of_no_preset(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config["text_config"].update(hidden_size=200))


def have_other_sizes_than_the_weights(folder: pathlib.Path) -> None:
    """A config of a preset, weights of another."""
    edit(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))
    edit(
        folder / "config.json",
        lambda config: config["text_config"].update(tie_word_embeddings=True),
    )


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_a_shard, [f"/{SHARD} is damaged: ", "; fetch it again"]),
        (quantize_a_tensor, [f"{NORM} of model-0000", "is of type I8, expected F32, BF16, F16"]),
        (offer_pickles, ["pytorch_model.bin, a format that can run code", "safetensors first"]),
        (lose_a_shard, [f"/{SHARD} is missing, though the index names it"]),
        (lead_out_of_the_folder, [f"/{INDEX} places {NORM} in '../other.safetensors'"]),
        (forget_and_invent_tensors, [f"missing {NORM}; unexpected model.ghost"]),
        (be_of_another_family, ["/config.json: model_type 'qwen2_vl' is not one", "qwen3_vl"]),
        (be_a_language_model, ["/config.json: model_type 'llama' is not one"]),
        (have_other_patches, ["/config.json", "patch_size is 14, ivx has 16 only"]),
        (have_sizes_of_no_preset, ["the tower gives 192 numbers, the text takes 200"]),
        (have_other_sizes_than_the_weights, ["differs from tiny in text.tied = True"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_folder_is_refused_and_nothing_is_written(whole, tmp_path, damage, sentence):
    folder, workdir = tmp_path / "model", tmp_path / "run"
    shutil.copytree(whole, folder)
    damage(folder)
    said = refused(ivx("import-hf", f"--source={folder}", f"--workdir={workdir}"))
    assert all(part in said for part in sentence), said
    assert not workdir.exists()
