"""The tokenizer: text to ids and back, from a Hugging Face `tokenizer.json`."""

import functools
import hashlib
import pathlib
from collections.abc import Iterable

import numpy as np
import tokenizers

from ivx.text import compact_tokenizer, qwen_tokenizer, special_tokens

COMPACT, QWEN = "compact", "qwen3"


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

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; a special token in it becomes its single id."""
        return self._backend.encode(text, add_special_tokens=False).ids

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
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is damaged: {error}; download it again") from error
    return Tokenizer(backend)
