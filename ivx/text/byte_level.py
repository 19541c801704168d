"""What every tokenizer of ours shares: byte-level pieces, split as Qwen splits, 26 added tokens."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ivx.text import special_tokens

# Contractions, words with one leading mark, single digits, marks, line breaks, spaces.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """A tokenizer around a byte-pair encoding; its added tokens are still to come."""
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def added_tokens() -> list[tokenizers.AddedToken]:
    """Qwen's added tokens, in the order of their ids."""
    return [
        tokenizers.AddedToken(token, normalized=False, special=token in special_tokens.HIDDEN)
        for token in special_tokens.ALL
    ]
