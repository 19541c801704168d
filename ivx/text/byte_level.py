"""Shared parts of the tokenizers: Qwen's byte-level pre-tokenizer and its 26 added tokens."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ivx.text import special_tokens

# Contractions, words with one leading symbol, single digits, symbols, line breaks, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """A tokenizer with this byte-pair encoding, without the added tokens."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def added_tokens() -> list[tokenizers.AddedToken]:
    """Qwen's added tokens, in the order of their ids."""
    return [
        tokenizers.AddedToken(token, normalized=False, special=token in special_tokens.HIDDEN)
        for token in special_tokens.ALL
    ]
