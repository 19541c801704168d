"""What transformers makes of the same inputs: the golden files are its answers.

Needs transformers, `trl` for the templates that it brings (it is not imported), and the folder of
a released Qwen3 or Qwen3-VL tokenizer in the environment variable IVX_QWEN_TOKENIZER.
`python -m tests.make_parity` writes the golden files, tests/parity makes them live.
"""

import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable

from ivx.text import compact_tokenizer
from tests.parity import conversations, strings


class PeerMissingError(Exception):
    """What is to be compared with is not on this machine; the text says what and how to get it."""


def digest(text: str) -> str:
    """Enough of a hash to tell renderings apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_ids(ids: Iterable[int]) -> str:
    """The same of token ids."""
    return digest(",".join(map(str, ids)))


def file_of(package: str, *parts: str) -> pathlib.Path:
    """A file that an installed package brings, without importing the package.

    Raises:
      PeerMissingError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None:
        raise PeerMissingError(f"{package} is not installed; `make test-parity` installs it")
    return pathlib.Path(found.submodule_search_locations[0]).joinpath(*parts)


def chat_template() -> list[str]:
    """A digest of each conversation, as the templates of Qwen write it.

    Without `enable_thinking` that of Qwen3-VL-Instruct; with it that of Qwen3, to which True adds
    the <think> that the Thinking models of Qwen3-VL open the turn with.
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
    """A digest of the ids of each string, by a released tokenizer.

    Raises:
      PeerMissingError: there is none.
    """
    import transformers

    folder = os.environ.get("IVX_QWEN_TOKENIZER")
    if not folder:
        raise PeerMissingError("IVX_QWEN_TOKENIZER names no folder of a released tokenizer")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    return [digest_ids(ids) for ids in words(strings.generate())["input_ids"]]
