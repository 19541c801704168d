"""Checks the values of config.json, before any of them sizes an array or a list."""

from typing import Any

from ivx.hf.json_file import shown

# Key in text_config that holds K if latent attention keeps the QK-norm; otherwise absent.
EXACT_KEY = "qk_norm_key_value_heads"
# ivx field -> config.json key.
TEXT = {
    "depth": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "vocab": "vocab_size",
}
VISION = {
    "depth": "depth",
    "width": "hidden_size",
    "heads": "num_heads",
    "mlp": "intermediate_size",
}
# Above every size of a real model: the largest is a vocabulary, of 151,936 rows.
_LARGEST = 2**20
# Constants of the ivx model: (part, key, value); an absent key means this value.
_FIXED = (
    ("text", "hidden_act", "silu"),
    ("text", "rope_interleave", True),
    ("rope", "rope_type", "default"),
    ("rope", "type", "default"),
    ("rope", "mrope_interleaved", True),
    ("vision", "hidden_act", "gelu_pytorch_tanh"),
    ("vision", "patch_size", 16),
    ("vision", "temporal_patch_size", 2),
    ("vision", "spatial_merge_size", 2),
    ("vision", "in_channels", 3),
)


def problems(config: dict, parts: dict[str, dict]) -> list[str]:
    """Values that ivx does not support or that are invalid."""
    problems = [
        f"{key} is {shown(parts[part][key])}, ivx supports only {value!r}"
        for part, key, value in _FIXED
        if parts[part].get(key, value) != value
    ]
    text, vision, rope = parts["text"], parts["vision"], parts["rope"]
    needed = [("text_config", text, key) for key in TEXT.values()]
    needed += [("vision_config", vision, key) for key in VISION.values()]
    needed.append(("vision_config", vision, "num_position_embeddings"))
    if config["model_type"] == "qwen3_vl":
        needed.append(("text_config", text, "num_key_value_heads"))
    elif EXACT_KEY in text:
        needed.append(("text_config", text, EXACT_KEY))
    problems += [
        f"{part}.{key} must be an integer from 1 to {_LARGEST:,}, not {shown(values.get(key))}"
        for part, values, key in needed
        if not _is_size(values.get(key))
    ]
    width = text.get("hidden_size")
    if vision.get("out_hidden_size", width) != width:
        problems.append(
            f"vision_config.out_hidden_size is {shown(vision['out_hidden_size'])}, expected the"
            f" hidden_size {shown(width)} of the text"
        )
    taps = vision.get("deepstack_visual_indexes")
    if not _is_list_of_sizes(taps, 0) or not 0 < len(taps) <= 100:
        problems.append(
            f"deepstack_visual_indexes must be a non-empty list of block indices, not {shown(taps)}"
        )
    sections = rope.get("mrope_section", [1, 1, 1])
    if not _is_list_of_sizes(sections, 0) or len(sections) != 3:
        problems.append(f"mrope_section must be a list of three integers, not {shown(sections)}")
    return problems


def tied(config: dict, text: dict) -> bool:
    """Whether the embedding table is also the output head.

    Raises:
      ValueError: a value is not a boolean, or the two differ: transformers 5 uses that of the top
        level, 4 that of the text.
    """
    values = [
        part["tie_word_embeddings"] for part in (config, text) if "tie_word_embeddings" in part
    ]
    if any(type(value) is not bool for value in values) or len(set(values)) > 1:
        raise ValueError(
            "tie_word_embeddings must be true or false, the same at the top level and in"
            f" text_config, not {shown(values)}"
        )
    return values[0] if values else False


def ranks(text: dict) -> tuple[int, ...]:
    """One latent rank per layer, from a list or a single number.

    Args:
      text: of the config, without `problems`.

    Raises:
      ValueError: there is not a rank for each layer.
    """
    depth = text["num_hidden_layers"]
    listed = text.get("kv_lora_rank_list") or [text.get("kv_lora_rank")] * depth
    if not _is_list_of_sizes(listed, 1) or len(listed) != depth:
        raise ValueError(
            f"kv_lora_rank or kv_lora_rank_list must be an integer from 1 to {_LARGEST:,} for each"
            f" of {depth} layers, not"
            f" {shown(text.get('kv_lora_rank_list') or text.get('kv_lora_rank'))}"
        )
    return tuple(listed)


def number(value: Any, key: str) -> float:
    """A positive number.

    Raises:
      ValueError: it is none.
    """
    if type(value) not in (int, float) or value <= 0:
        raise ValueError(f"{key} must be a positive number, not {shown(value)}")
    return float(value)


def is_head_dim(value: Any) -> bool:
    """Whether a value can be the width of a head."""
    return _is_size(value, 2)


def _is_size(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= _LARGEST


def _is_list_of_sizes(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(_is_size(item, least) for item in value)
