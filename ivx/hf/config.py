"""Converts between config.json and the sizes of a model.

Several programs write config.json, so reading is tolerant. Text sizes are under `text_config` or at
the top level; rope is under `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters`
(5); `kv_lora_rank` is one number, or there is a list with one per layer, whose maximum is the rank
of the model (see `ivx.hf.ranks`). The written format is that of transformers 4.57, which version 5
also reads; 4.57 cannot read the format of 5.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from ivx.errors import UserError
from ivx.hf import json_file, text_files
from ivx.models import spec as specs
from ivx.text import special_tokens
from ivx.text.tokenizer import Tokenizer

# ivx attention -> (model_type, class).
_MODELS = {
    "gqa": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    "m2la": ("internvideo3", "InternVideo3ForConditionalGeneration"),
    "m2la_exact": ("internvideo3", "InternVideo3ForConditionalGeneration"),
}
# Key in text_config that holds K if latent attention keeps the QK-norm; otherwise absent.
_EXACT_KEY = "qk_norm_key_value_heads"
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
# ivx field -> config.json key.
_TEXT = {
    "depth": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "vocab": "vocab_size",
}
_VISION = {
    "depth": "depth",
    "width": "hidden_size",
    "heads": "num_heads",
    "mlp": "intermediate_size",
}


def read_spec(folder: pathlib.Path) -> specs.ModelSpec:
    """Sizes of the model in a folder.

    Sizes that its attention does not use (K of M2LA, R of GQA) are set to N and 0. `dtype` is that
    of the weights, float32 or bfloat16.

    Raises:
      UserError: config.json is missing, its model_type is unknown, or ivx does not support its
        sizes; the message lists every problem.
    """
    path = folder / "config.json"
    config = json_file.read(path)
    known = {model_type: name for name, (model_type, _) in _MODELS.items() if name != "m2la_exact"}
    attention = known.get(config.get("model_type"))
    if attention is None:
        raise UserError(
            f"{path}: model_type {config.get('model_type')!r} is not supported;"
            f" give one of {', '.join(known)}"
        )
    text = _part(config.get("text_config", config))
    if attention == "m2la" and _EXACT_KEY in text:
        attention = "m2la_exact"
    parts = {
        "text": text,
        "vision": _part(config.get("vision_config")),
        "rope": _part(text.get("rope_parameters") or text.get("rope_scaling")),
    }
    try:
        problems = _problems(config, parts)
        if problems:
            raise ValueError("; ".join(problems))
        dtype = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
        return specs.ModelSpec(
            _vision(parts["vision"]),
            _text(attention, text, parts["rope"], _tied(config, text)),
            "float32" if dtype == "float32" else "bfloat16",
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} describes a model that ivx does not support: {error}") from error


def read_ranks(folder: pathlib.Path) -> tuple[int, ...]:
    """The latent rank of each layer; () without latent attention.

    Raises:
      UserError: as `read_spec`.
    """
    if read_spec(folder).text.attention == "gqa":
        return ()
    config = json_file.read(folder / "config.json")
    return _ranks(_part(config.get("text_config", config)))


def write_config(
    spec: specs.ModelSpec,
    tokenizer: Tokenizer,
    dtype: str = "bfloat16",
    latent_ranks: Sequence[int] = (),
) -> dict:
    """The content of config.json.

    Args:
      spec: sizes of the model.
      tokenizer: supplies the ids of special tokens.
      dtype: of the weights.
      latent_ranks: of each layer, if they differ.
    """
    text, attention = spec.text, spec.text.attention
    model_type, model_class = _MODELS[attention]
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        "dtype": dtype,
        "image_token_id": tokenizer.id_of(special_tokens.IMAGE_PAD),
        "video_token_id": tokenizer.video_pad,
        "vision_start_token_id": tokenizer.id_of(special_tokens.VISION_START),
        "vision_end_token_id": tokenizer.id_of(special_tokens.VISION_END),
        "tie_word_embeddings": text.tied,
        # 4.57.3 to 4.57.6 warn about the pre-tokenizer regex of any later version.
        "transformers_version": "4.57.1",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": dtype,
            **{key: getattr(text, field) for field, key in _TEXT.items()},
            # Latent attention has one key per query head.
            "num_key_value_heads": text.kv_heads if attention == "gqa" else text.heads,
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": text.norm_eps,
            "rope_theta": text.rope_theta,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_sections),
            },
            "max_position_embeddings": text_files.CONTEXT,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": text.tied,
            "use_cache": True,
            **text_files.token_ids(tokenizer),
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            **{key: getattr(spec.vision, field) for field, key in _VISION.items()},
            "out_hidden_size": text.width,
            "num_position_embeddings": spec.vision.table_side**2,
            "deepstack_visual_indexes": list(spec.vision.taps),
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "initializer_range": 0.02,
        },
    }
    if attention != "gqa":
        config["auto_map"] = {
            "AutoConfig": "configuration_internvideo3.InternVideo3Config",
            **dict.fromkeys(
                ("AutoModelForCausalLM", "AutoModelForImageTextToText"),
                f"modeling_internvideo3.{model_class}",
            ),
        }
        config["text_config"] |= {
            "kv_lora_rank": text.kv_rank,
            "q_lora_rank": None,
            "qk_nope_head_dim": text.head_dim,
            "qk_rope_head_dim": text.head_dim,
            "v_head_dim": text.head_dim,
            "qk_latent_layernorm": False,
            "rope_interleave": True,
        }
        if attention == "m2la_exact":
            config["text_config"][_EXACT_KEY] = text.kv_heads
        if latent_ranks:
            config["text_config"]["kv_lora_rank_list"] = list(latent_ranks)
    return config


def _part(value: Any) -> dict:
    """A part of the config; empty if it is not an object."""
    return value if isinstance(value, dict) else {}


def _tied(config: dict, text: dict) -> bool:
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
            f" text_config, not {values}"
        )
    return values[0] if values else False


def _problems(config: dict, parts: dict[str, dict]) -> list[str]:
    """Values that ivx does not support or that are invalid."""
    problems = [
        f"{key} is {parts[part][key]!r}, ivx supports only {value!r}"
        for part, key, value in _FIXED
        if parts[part].get(key, value) != value
    ]
    text, vision = parts["text"], parts["vision"]
    needed = [("text_config", text, key) for key in _TEXT.values()]
    needed += [("vision_config", vision, key) for key in _VISION.values()]
    needed.append(("vision_config", vision, "num_position_embeddings"))
    if config["model_type"] == "qwen3_vl":
        needed.append(("text_config", text, "num_key_value_heads"))
    problems += [
        f"{part}.{key} must be a positive integer, not {values.get(key)!r}"
        for part, values, key in needed
        if type(values.get(key)) is not int or values[key] < 1
    ]
    width = text.get("hidden_size")
    if vision.get("out_hidden_size", width) != width:
        problems.append(
            f"vision_config.out_hidden_size is {vision['out_hidden_size']!r}, expected the"
            f" hidden_size {width!r} of the text"
        )
    taps = vision.get("deepstack_visual_indexes")
    if not isinstance(taps, list) or not taps or any(type(tap) is not int for tap in taps):
        problems.append(
            f"deepstack_visual_indexes must be a non-empty list of block indices, not {taps!r}"
        )
    return problems


def _vision(vision: dict) -> specs.VisionSpec:
    side = math.isqrt(vision["num_position_embeddings"])
    if side * side != vision["num_position_embeddings"]:
        raise ValueError(
            f"num_position_embeddings = {vision['num_position_embeddings']} is not a square"
        )
    return specs.VisionSpec(
        **{field: vision[key] for field, key in _VISION.items()},
        taps=tuple(vision["deepstack_visual_indexes"]),
        table_side=side,
    )


def _text(attention: str, text: dict, rope: dict, tied: bool) -> specs.TextSpec:
    theta = rope.get("rope_theta", text.get("rope_theta"))
    if not isinstance(theta, int | float) or theta <= 0:
        # The default depends on the version of transformers.
        raise ValueError(f"rope_theta must be a positive number, not {theta!r}")
    heads = text["num_attention_heads"]
    if attention == "gqa":
        head_dim = text.get("head_dim", 128)
        kv_heads, kv_rank = text["num_key_value_heads"], 0
    else:
        widths = [text.get(f"{part}_head_dim") for part in ("qk_nope", "qk_rope", "v")]
        if len(set(widths)) > 1:
            raise ValueError(f"head dimensions (qk_nope, qk_rope, v) must be equal, not {widths}")
        head_dim, kv_heads, kv_rank = widths[0], text.get(_EXACT_KEY, heads), max(_ranks(text))
    if type(head_dim) is not int or head_dim < 2:
        raise ValueError(f"the head dimension must be an integer of at least 2, not {head_dim!r}")
    return specs.TextSpec(
        attention=attention,
        **{field: text[key] for field, key in _TEXT.items()},
        head_dim=head_dim,
        kv_heads=kv_heads,
        kv_rank=kv_rank,
        rope_theta=float(theta),
        mrope_sections=tuple(rope.get("mrope_section", (24, 20, 20))),
        norm_eps=float(text.get("rms_norm_eps", 1e-6)),
        tied=tied,
    )


def _ranks(text: dict) -> tuple[int, ...]:
    """One rank per layer, from a list or a single number."""
    depth = text["num_hidden_layers"]
    ranks = text.get("kv_lora_rank_list") or [text.get("kv_lora_rank")] * depth
    if (
        not isinstance(ranks, list)
        or len(ranks) != depth
        or any(type(rank) is not int or rank < 1 for rank in ranks)
    ):
        raise ValueError(
            f"kv_lora_rank or kv_lora_rank_list must be a positive integer for each of"
            f" {depth} layers, not {text.get('kv_lora_rank_list') or text.get('kv_lora_rank')!r}"
        )
    return tuple(ranks)


def preset_of(spec: specs.ModelSpec) -> str:
    """The preset with these sizes; dtype, remat and the latent rank may differ.

    Raises:
      UserError: there is none; the message names the nearest, with the differences.
    """
    sizes = _sizes(spec)
    differences = {
        name: [
            f"{key} = {sizes[key]} instead of {value}"
            for key, value in _sizes(preset(spec.text.attention)).items()
            if sizes[key] != value
        ]
        for name, preset in specs.PRESETS.items()
    }
    nearest = min(differences, key=lambda name: len(differences[name]))
    if differences[nearest]:
        raise UserError(
            f"the model has the sizes of no preset ({', '.join(specs.PRESETS)}): it differs from"
            f" {nearest} in {', '.join(differences[nearest])}; give a model with the sizes of a"
            " preset"
        )
    return nearest


def _sizes(spec: specs.ModelSpec) -> dict[str, Any]:
    """The sizes that its attention uses, by dotted name."""
    unused = {"kv_rank"} | ({"kv_heads"} if spec.text.attention == "m2la" else set())
    return {
        f"{part}.{field}": value
        for part in ("vision", "text")
        for field, value in dataclasses.asdict(getattr(spec, part)).items()
        if field not in unused
    }
