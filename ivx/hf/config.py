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
from ivx.hf import config_values, json_file, text_files
from ivx.models import spec as specs
from ivx.text import special_tokens
from ivx.text.tokenizer import Tokenizer

# ivx attention -> (model_type, class).
_MODELS = {
    "gqa": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    "m2la": ("internvideo3", "InternVideo3ForConditionalGeneration"),
    "m2la_exact": ("internvideo3", "InternVideo3ForConditionalGeneration"),
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
    model_type = config.get("model_type")
    attention = known.get(model_type) if isinstance(model_type, str) else None
    if attention is None:
        raise UserError(
            f"{path}: model_type {json_file.shown(model_type)} is not supported;"
            f" give one of {', '.join(known)}"
        )
    text = _part(config.get("text_config", config))
    if attention == "m2la" and config_values.EXACT_KEY in text:
        attention = "m2la_exact"
    parts = {
        "text": text,
        "vision": _part(config.get("vision_config")),
        "rope": _part(text.get("rope_parameters") or text.get("rope_scaling")),
    }
    try:
        problems = config_values.problems(config, parts)
        if problems:
            raise ValueError("; ".join(problems))
        dtype = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
        return specs.ModelSpec(
            _vision(parts["vision"]),
            _text(attention, text, parts["rope"], config_values.tied(config, text)),
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
    return config_values.ranks(_part(config.get("text_config", config)))


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
            **{key: getattr(text, field) for field, key in config_values.TEXT.items()},
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
            **{key: getattr(spec.vision, field) for field, key in config_values.VISION.items()},
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
            config["text_config"][config_values.EXACT_KEY] = text.kv_heads
        if latent_ranks:
            config["text_config"]["kv_lora_rank_list"] = list(latent_ranks)
    return config


def _part(value: Any) -> dict:
    """A part of the config; empty if it is not an object."""
    return value if isinstance(value, dict) else {}


def _vision(vision: dict) -> specs.VisionSpec:
    side = math.isqrt(vision["num_position_embeddings"])
    if side * side != vision["num_position_embeddings"]:
        raise ValueError(
            f"num_position_embeddings = {vision['num_position_embeddings']} is not a square"
        )
    return specs.VisionSpec(
        **{field: vision[key] for field, key in config_values.VISION.items()},
        taps=tuple(vision["deepstack_visual_indexes"]),
        table_side=side,
    )


def _text(attention: str, text: dict, rope: dict, tied: bool) -> specs.TextSpec:
    # Without a default: it depends on the version of transformers.
    theta = config_values.number(rope.get("rope_theta", text.get("rope_theta")), "rope_theta")
    if attention == "gqa":
        head_dim = text.get("head_dim", 128)
        kv_heads, kv_rank = text["num_key_value_heads"], 0
    else:
        widths = [text.get(f"{part}_head_dim") for part in ("qk_nope", "qk_rope", "v")]
        if any(width != widths[0] for width in widths):
            raise ValueError(
                "head dimensions (qk_nope, qk_rope, v) must be equal, not"
                f" {json_file.shown(widths)}"
            )
        head_dim, kv_rank = widths[0], max(config_values.ranks(text))
        kv_heads = text.get(config_values.EXACT_KEY, text["num_attention_heads"])
    if not config_values.is_head_dim(head_dim):
        raise ValueError(
            f"the head dimension must be an integer of at least 2, not {json_file.shown(head_dim)}"
        )
    return specs.TextSpec(
        attention=attention,
        **{field: text[key] for field, key in config_values.TEXT.items()},
        head_dim=head_dim,
        kv_heads=kv_heads,
        kv_rank=kv_rank,
        rope_theta=theta,
        mrope_sections=tuple(rope.get("mrope_section", (24, 20, 20))),
        norm_eps=config_values.number(text.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
        tied=tied,
    )


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
