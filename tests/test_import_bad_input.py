"""`ivx import-hf` rejects bad folders with one sentence and creates no workdir."""

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ivx.hf import processor, write
from ivx.hf.shards import INDEX
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.text import compact_tokenizer
from ivx.training.checkpoints import checkpoint
from tests.command import ivx, refused

SHARD = "model-00002-of-00003.safetensors"
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A valid folder of the tiny preset, in three shards."""
    folder = tmp_path_factory.mktemp("valid") / "model"
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


def edit(path: pathlib.Path, change: Callable[[dict], None]) -> None:
    """Rewrites a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truncate_shard(folder: pathlib.Path) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:-1000])


def quantize_tensor(folder: pathlib.Path) -> None:
    file = json.loads((folder / INDEX).read_text())["weight_map"][NORM]
    tensors = load_file(folder / file)
    tensors[NORM] = tensors[NORM].astype(np.int8)
    save_file(tensors, folder / file)


def use_pickles(folder: pathlib.Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def delete_shard(folder: pathlib.Path) -> None:
    (folder / SHARD).unlink()


def point_outside_the_folder(folder: pathlib.Path) -> None:
    edit(folder / INDEX, lambda index: index["weight_map"].update({NORM: "../other.safetensors"}))


def rename_tensor(folder: pathlib.Path) -> None:
    def change(index: dict) -> None:
        index["weight_map"]["model.ghost"] = index["weight_map"].pop(NORM)

    edit(folder / INDEX, change)


def use_other_model_type(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="qwen2_vl"))


def use_language_model(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')


def change_patch_size(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config["vision_config"].update(patch_size=14))


def change_hidden_size(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config["text_config"].update(hidden_size=200))


def tie_embeddings(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))
    edit(
        folder / "config.json",
        lambda config: config["text_config"].update(tie_word_embeddings=True),
    )


def poison_weights(folder: pathlib.Path) -> None:
    file = json.loads((folder / INDEX).read_text())["weight_map"][NORM]
    tensors = load_file(folder / file)
    tensors[NORM][:3] = [np.nan, np.inf, -np.inf]
    save_file(tensors, folder / file)


def add_tensors(folder: pathlib.Path) -> None:
    ghosts = {f"ghost_{number:05d}": np.zeros(1, np.int8) for number in range(20_000)}
    save_file(ghosts, folder / "ghosts.safetensors")
    files = dict.fromkeys(ghosts, "ghosts.safetensors")
    edit(folder / INDEX, lambda index: index["weight_map"].update(files))


def list_model_types(folder: pathlib.Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type=["qwen3_vl"]))


def nest_deeply(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text('{"model_type":' * 100_000)


def use_catastrophic_pattern(folder: pathlib.Path) -> None:
    def change(tokenizer: dict) -> None:
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a|aa)+$"

    edit(folder / "tokenizer.json", change)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (truncate_shard, [f"/{SHARD} is damaged: ", "; download it again"]),
        (quantize_tensor, [f"{NORM} of model-0000", "is of type I8, expected F32, BF16, F16"]),
        (use_pickles, ["pytorch_model.bin, a format that can execute code", "safetensors first"]),
        (delete_shard, [f"/{SHARD} is missing, though the index names it"]),
        (point_outside_the_folder, [f"/{INDEX} places {NORM} in '../other.safetensors'"]),
        (rename_tensor, [f"missing {NORM}; unexpected model.ghost"]),
        (
            use_other_model_type,
            ["/config.json: model_type 'qwen2_vl' is not supported", "qwen3_vl"],
        ),
        (use_language_model, ["/config.json: model_type 'llama' is not supported"]),
        (change_patch_size, ["/config.json", "patch_size is 14, ivx supports only 16"]),
        (change_hidden_size, ["out_hidden_size is 192, expected the hidden_size 200"]),
        (poison_weights, [f" holds 3 weights that are NaN or infinite, in {NORM} (3); download"]),
        (
            add_tensors,
            ["unexpected ghost_00000, ghost_00001,", "ghost_00009 and 19,990 more; check"],
        ),
        (list_model_types, ["model_type ['qwen3_vl'] is not supported"]),
        (nest_deeply, ["/config.json is damaged: it is nested too deeply"]),
        (
            use_catastrophic_pattern,
            ["splits text by the pattern '(a|aa)+$', expected that of Qwen3"],
        ),
        (tie_embeddings, ["differs from tiny in text.tied = True"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_folder_is_rejected_and_nothing_is_written(
    valid: pathlib.Path,
    tmp_path: pathlib.Path,
    damage: Callable[[pathlib.Path], None],
    parts: list[str],
):
    folder, workdir = tmp_path / "model", tmp_path / "run"
    shutil.copytree(valid, folder)
    damage(folder)
    message = refused(ivx("import-hf", f"--source={folder}", f"--workdir={workdir}"))
    assert all(part in message for part in parts), message
    assert not workdir.exists()


def test_weights_that_are_not_finite_are_imported_with_a_flag(
    valid: pathlib.Path, tmp_path: pathlib.Path
):
    folder, workdir = tmp_path / "model", tmp_path / "run"
    shutil.copytree(valid, folder)
    poison_weights(folder)
    assert not ivx(
        "import-hf", f"--source={folder}", f"--workdir={workdir}", "--allow_nonfinite"
    ).returncode
    definition = ModelDefinition(spec.tiny("gqa"))
    params, _ = checkpoint.load_params(workdir, definition.abstract_params)
    scale = np.asarray(params["language_model"]["norm"]["scale"])
    np.testing.assert_array_equal(scale[:4], [np.nan, np.inf, -np.inf, 0])
