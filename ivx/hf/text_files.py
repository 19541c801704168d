"""The contents of tokenizer_config.json and generation_config.json."""

from ivx.text import special_tokens
from ivx.text.tokenizer import Tokenizer

# Context length of Qwen3-VL; ivx models have no position table.
CONTEXT = 262144


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens. There is no BOS token; the padding token takes its place."""
    end_of_text = tokenizer.id_of(special_tokens.END_OF_TEXT)
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": tokenizer.end_of_turn,
        "pad_token_id": end_of_text,
    }


def generation_config(tokenizer: Tokenizer) -> dict:
    """Greedy sampling, as in ivx, up to the end of the turn or of the text."""
    ids = token_ids(tokenizer)
    ends = {"eos_token_id": [ids["eos_token_id"], ids["pad_token_id"]]}
    return ids | ends | {"do_sample": False}


def tokenizer_config(tokenizer: Tokenizer) -> dict:
    """The roles of the special tokens in tokenizer.json."""
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": special_tokens.IM_END,
        "pad_token": special_tokens.END_OF_TEXT,
        "unk_token": None,
        "errors": "replace",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "additional_special_tokens": list(special_tokens.HIDDEN),
        "added_tokens_decoder": {
            str(tokenizer.id_of(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in special_tokens.HIDDEN,
            }
            for token in special_tokens.ALL
        },
    }
