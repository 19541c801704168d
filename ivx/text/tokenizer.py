"""The tokenizer: text to ids and back, from a Hugging Face `tokenizer.json`."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers

from ivx import local_files
from ivx.text import byte_level, compact_tokenizer, qwen_tokenizer, special_tokens

COMPACT, QWEN = "compact", "qwen3"
# The released file has 11 MB.
_MAX_BYTES = 256 << 20


class Tokenizer:
    """A vocabulary with Qwen's special tokens.

    Attributes:
      vocab_size: number of ids in use; the embedding table of a model may have more rows.
      end_of_turn: id of <|im_end|>, which ends an answer.
      video_pad: id of the placeholder of a video's visual token.
      image_pad: id of the placeholder of an image's visual token.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        missing = [token for token in special_tokens.ALL if backend.token_to_id(token) is None]
        if missing:
            raise ValueError(
                f"the tokenizer lacks the special tokens {missing}; ivx needs a Qwen3 vocabulary"
            )
        self._backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.end_of_turn = self.id_of(special_tokens.IM_END)
        self.video_pad = self.id_of(special_tokens.VIDEO_PAD)
        self.image_pad = self.id_of(special_tokens.IMAGE_PAD)

    def id_of(self, token: str) -> int:
        """The id of a special token.

        Raises:
          KeyError: there is no such token.
        """
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise KeyError(token)
        return token_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenizer's definition."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def same_vocabulary(self, other: "Tokenizer") -> bool:
        """Whether both map the same tokens to the same ids; their files may differ."""
        return self._backend.get_vocab() == other._backend.get_vocab()

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same encoding without special tokens."""
        plain = tokenizers.Tokenizer(self._backend.model)
        plain.normalizer, plain.pre_tokenizer = (
            self._backend.normalizer,
            self._backend.pre_tokenizer,
        )
        return plain

    def encode(self, text: str, plain: bool = False) -> list[int]:
        """Ids of `text`.

        Args:
          text: any text.
          plain: whether a special token in it is encoded like any other characters; by default it
            becomes its single id.

        Raises:
          ValueError: the text cannot be tokenized, as one with 10 million spaces in a row.
        """
        backend = self._plain if plain else self._backend
        try:
            return backend.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise ValueError(f"{len(text):,} characters cannot be tokenized ({error})") from error

    def decode(self, ids: Iterable[int] | np.ndarray, skip_special: bool = True) -> str:
        """Text of `ids`; `skip_special` omits the hidden tokens (not <think> or <tool_call>)."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)


def find(name: str) -> pathlib.Path:
    """Path of a tokenizer.json.

    Args:
      name: `compact`, `qwen3`, the path of a tokenizer.json, or its folder.

    Raises:
      FileNotFoundError: there is no such file, or no package contains the vocabulary of `qwen3`.
      ValueError: the package contains another vocabulary.
    """
    if name == QWEN:
        return qwen_tokenizer.cached()
    path = compact_tokenizer.PATH if name == COMPACT else pathlib.Path(name)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {path}; give {COMPACT!r}, {QWEN!r}, a tokenizer.json or its folder"
            f"{local_files.download_hint(name)}"
        )
    return path


@functools.cache
def load(name: str) -> Tokenizer:
    """Loads the tokenizer that `find` locates.

    Raises:
      FileNotFoundError: as `find`.
      ValueError: as `find`, or the file is damaged, or the vocabulary lacks a special token.
    """
    path = find(name)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has more than {_MAX_BYTES:,} bytes; download it again")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises nothing narrower
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise ValueError(f"{path} is damaged: {str(error)[:200]}; download it again") from error
    for pattern in _patterns(backend):
        # Some patterns take exponential time, or end in a panic of the library.
        if pattern != byte_level.SPLIT:
            raise ValueError(
                f"{path} splits text by the pattern {pattern[:60]!r}, expected that of Qwen3;"
                " give the tokenizer.json of a Qwen3 model"
            )
    # A file may hold limits of its training, by which long texts would be cut.
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend)


def _is_panic(error: BaseException) -> bool:
    """Whether the library, which is written in Rust, ended in a panic; it is no `Exception`."""
    return type(error).__name__ == "PanicException"


def _patterns(backend: tokenizers.Tokenizer) -> Iterator[str]:
    """The regular expressions of a tokenizer."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor, backend.decoder)
    pending: list[Any] = [json.loads(part.__getstate__()) for part in parts if part]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("Regex"), str):
                yield value["Regex"]
            pending += value.values()
        elif isinstance(value, list):
            pending += value
