"""Runs transformers on the parity inputs; the golden files hold its outputs.

Requires transformers, `trl` for its chat templates (it is not imported), and the environment
variable IVX_QWEN_TOKENIZER, the folder of a released Qwen3 or Qwen3-VL tokenizer.
`python -m tests.make_parity` writes the golden files; tests/parity compares them with new outputs.
"""

import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable

from ivx.text import compact_tokenizer
from tests.parity import conversations, strings


class PeerMissingError(Exception):
    """A reference is not installed; the message names it and how to get it."""


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_ids(ids: Iterable[int]) -> str:
    """A short hash of token ids."""
    return digest(",".join(map(str, ids)))


def file_of(package: str, *parts: str) -> pathlib.Path:
    """A file of an installed package, without importing the package.

    Raises:
      PeerMissingError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise PeerMissingError(f"{package} is not installed; `make test-parity` installs it")
    return pathlib.Path(spec.submodule_search_locations[0]).joinpath(*parts)


def chat_template() -> list[str]:
    """A digest of each conversation as the Qwen templates render it.

    Without `enable_thinking` the template is that of Qwen3-VL-Instruct, otherwise that of Qwen3.
    True appends the <think> with which the Thinking models of Qwen3-VL open the turn.
    """
    import transformers

    words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(compact_tokenizer.PATH))
    plain, thinking = (
        file_of("trl", "chat_templates", f"{name}.jinja").read_text(encoding="utf-8")
        for name in ("qwen3_vl", "qwen3")
    )
    digests = []
    for conversation in conversations.generate():
        text = words.apply_chat_template(
            conversations.as_items(conversation.messages),
            chat_template=plain if conversation.enable_thinking is None else thinking,
            tools=conversation.tools or None,
            add_generation_prompt=conversation.generate,
            enable_thinking=conversation.enable_thinking,
            tokenize=False,
        )
        digests.append(digest(text + ("<think>\n" if conversation.enable_thinking else "")))
    return digests


def tokenizer() -> list[str]:
    """A digest of the ids of each string, from a released tokenizer.

    Raises:
      PeerMissingError: IVX_QWEN_TOKENIZER is not set.
    """
    import transformers

    folder = os.environ.get("IVX_QWEN_TOKENIZER")
    if not folder:
        raise PeerMissingError(
            "IVX_QWEN_TOKENIZER is not set; set it to the folder of a released tokenizer"
        )
    words = transformers.AutoTokenizer.from_pretrained(folder)
    return [digest_ids(ids) for ids in words(strings.generate())["input_ids"]]
