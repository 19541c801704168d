"""Exports a model as a folder that `transformers` loads.

config.json  generation_config.json         sizes, ids of special tokens
model*.safetensors (+ index)                weights
tokenizer.json  tokenizer_config.json       text
chat_template.jinja                         messages to text
preprocessor_config.json                    image sizes
video_preprocessor_config.json              frame sampling and video sizes
README.md                                   model card
{configuration,modeling}_internvideo3.py    latent attention (M2LA), which transformers lacks
"""

import pathlib
import shutil
from collections.abc import Mapping

from data_pipelines.whole_folder import whole_folder
from ivx.errors import UserError
from ivx.hf import card as cards
from ivx.hf import config, json_file, processor, ranks, shards, text_files
from ivx.models.definition import ModelDefinition, Params
from ivx.text import tokenizer as tokenizers

_HERE = pathlib.Path(__file__).parent
TEMPLATE = _HERE / "chat_template.jinja"
REMOTE_CODE = tuple(
    _HERE / "remote_code" / f"{kind}_internvideo3.py" for kind in ("configuration", "modeling")
)


def export(
    folder: pathlib.Path,
    definition: ModelDefinition,
    params: Params,
    tokenizer_path: pathlib.Path,
    rules: processor.FrameRules,
    card: Mapping[str, object],
    dtype: str = "bfloat16",
    shard_bytes: int | float = 5e9,
) -> None:
    """Writes a folder as a `whole_folder`: complete or not at all.

    Args:
      folder: absent or empty.
      definition: the model.
      params: its parameters; rounded to `dtype`.
      tokenizer_path: the tokenizer.json that belongs to the model.
      rules: frame sampling and sizes of the training data.
      card: rows of the table in the model card.
      dtype: of the weights, bfloat16 or float32.
      shard_bytes: size that no shard exceeds, unless a single tensor does.

    Raises:
      UserError: the folder is not empty, or the dtype is unknown.
    """
    if dtype not in shards.DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(shards.DTYPES)}")
    check_free(folder)
    tokenizer = tokenizers.load(str(tokenizer_path))
    latent_ranks = ranks.layer_ranks(definition, params)
    if latent_ranks:
        card = {**card, "latent rank of each layer": ", ".join(map(str, latent_ranks))}
    with whole_folder(folder) as partial:
        shards.write_params(
            partial, definition, params, shards.DTYPES[dtype], shard_bytes, latent_ranks
        )
        documents = {
            "config.json": config.write_config(definition.spec, tokenizer, dtype, latent_ranks),
            "generation_config.json": text_files.generation_config(tokenizer),
            "tokenizer_config.json": text_files.tokenizer_config(tokenizer),
            **processor.processor_files(rules),
        }
        for name, content in documents.items():
            json_file.write(partial / name, content)
        shutil.copyfile(tokenizer_path, partial / "tokenizer.json")
        sources = (TEMPLATE, *(REMOTE_CODE if definition.spec.text.attention != "gqa" else ()))
        for path in sources:
            shutil.copyfile(path, partial / path.name)
        text = cards.render(folder.name, definition.spec, card)
        (partial / "README.md").write_text(text, encoding="utf-8")


def check_free(folder: pathlib.Path) -> None:
    """Checks that an export overwrites nothing.

    Raises:
      UserError: `folder` is a file or is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; give a folder that is empty or absent")
