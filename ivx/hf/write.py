"""A model as a folder that plain `transformers` loads.

config.json  generation_config.json         sizes, ids of special tokens
model*.safetensors (+ index)                weights
tokenizer.json  tokenizer_config.json       text
chat_template.jinja                         messages to text
preprocessor_config.json                    pictures
video_preprocessor_config.json              frames and sizes of videos
README.md                                   model card
{configuration,modeling}_internvideo3.py    the attention that transformers lacks (M2LA)
"""

import pathlib
import shutil
import tempfile
from collections.abc import Mapping

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
    shard_bytes: float = 5e9,
) -> None:
    """Writes a folder, whole or not at all: it is made beside its place and then renamed.

    Args:
      folder: absent or empty.
      definition: the model.
      params: its parameters; rounded to `dtype`.
      tokenizer_path: the tokenizer.json that belongs to the model.
      rules: frames and sizes that the model is used to.
      card: facts for the table of the model card.
      dtype: of the weights, bfloat16 or float32.
      shard_bytes: size that no file of weights exceeds, unless a single tensor does.

    Raises:
      UserError: the folder is taken, or no such dtype.
    """
    if dtype not in shards.DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(shards.DTYPES)}")
    check_free(folder)
    words, latent_ranks = tokenizers.load(str(tokenizer_path)), ranks.found(definition, params)
    if latent_ranks:
        card = {**card, "latent of each layer": ", ".join(map(str, latent_ranks))}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as made:
        whole = pathlib.Path(made) / "whole"  # unlike `made` itself, open to others
        whole.mkdir()
        shards.write_params(
            whole, definition, params, shards.DTYPES[dtype], shard_bytes, latent_ranks
        )
        documents = {
            "config.json": config.write_config(definition.spec, words, dtype, latent_ranks),
            "generation_config.json": text_files.generation_config(words),
            "tokenizer_config.json": text_files.tokenizer_config(words),
            **processor.processor_files(rules),
        }
        for name, content in documents.items():
            json_file.write(whole / name, content)
        shutil.copyfile(tokenizer_path, whole / "tokenizer.json")
        copied = (TEMPLATE, *(REMOTE_CODE if definition.spec.text.attention != "gqa" else ()))
        for path in copied:
            shutil.copyfile(path, whole / path.name)
        text = cards.render(folder.name, definition.spec, card)
        (whole / "README.md").write_text(text, encoding="utf-8")
        whole.replace(folder)


def check_free(folder: pathlib.Path) -> None:
    """Makes sure that nothing would be overwritten.

    Raises:
      UserError: `folder` is a file, or holds something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; give a folder that is empty or absent")
