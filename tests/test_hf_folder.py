"""The files of a folder besides its weights: config, preprocessor, template, model card."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jinja2
import pytest

from ivx.errors import UserError
from ivx.hf import card, config, processor, text_files, write
from ivx.models import spec
from ivx.text import chat_template, special_tokens, tokenizer
from tests.conftest import small_spec


@pytest.fixture(scope="module")
def words() -> tokenizer.Tokenizer:
    return tokenizer.load("compact")


def write_config(folder: pathlib.Path, content: dict) -> pathlib.Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def without_unused_sizes(sizes: spec.ModelSpec) -> spec.ModelSpec:
    """The sizes with those that the attention does not use set to a constant."""
    unused = {"m2la": {"kv_heads": 1}, "m2la_exact": {}, "gqa": {"kv_rank": 1}}
    changed = unused[sizes.text.attention]
    return dataclasses.replace(sizes, text=dataclasses.replace(sizes.text, **changed))


@pytest.mark.parametrize("attention", spec.ATTENTIONS)
@pytest.mark.parametrize("make", [small_spec, *spec.PRESETS.values()])
def test_sizes_survive_a_round_trip(
    words: tokenizer.Tokenizer,
    tmp_path: pathlib.Path,
    make: Callable[[str], spec.ModelSpec],
    attention: str,
):
    sizes = make(attention)
    content = config.write_config(sizes, words, sizes.dtype)
    read = config.read_spec(write_config(tmp_path, content))
    assert without_unused_sizes(read) == without_unused_sizes(sizes)


def test_config_has_the_ids_of_the_tokenizer(words: tokenizer.Tokenizer):
    content = config.write_config(spec.tiny(), words)
    assert content["video_token_id"] == words.encode(special_tokens.VIDEO_PAD)[0]
    assert content["vision_start_token_id"] == words.encode(special_tokens.VISION_START)[0]
    [end] = words.encode(special_tokens.IM_END)
    assert content["text_config"]["eos_token_id"] == end
    assert text_files.generation_config(words)["eos_token_id"][0] == end


def as_transformers_5(content: dict[str, Any]) -> None:
    text = content["text_config"]
    text["rope_parameters"] = text.pop("rope_scaling") | {"rope_theta": text.pop("rope_theta")}


def as_one_level(content: dict[str, Any]) -> None:
    content.update(content.pop("text_config") | {"model_type": content["model_type"]})


def as_older(content: dict[str, Any]) -> None:
    content["torch_dtype"] = content.pop("dtype")
    rank = content["text_config"].pop("kv_lora_rank")
    content["text_config"]["kv_lora_rank_list"] = [rank] * 3


@pytest.mark.parametrize("variant", [as_transformers_5, as_one_level, as_older])
def test_variants_of_the_config_are_read(
    words: tokenizer.Tokenizer, tmp_path: pathlib.Path, variant: Callable[[dict], None]
):
    content = config.write_config(small_spec(), words)
    before = config.read_spec(write_config(tmp_path, content))
    variant(content)
    assert config.read_spec(write_config(tmp_path, content)) == before


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (None, {"model_type": "llava"}, "model_type 'llava'"),
        (None, {"model_type": "qwen2_vl"}, "model_type 'qwen2_vl' is not supported"),
        (None, {"model_type": "llama"}, "model_type 'llama' is not supported"),
        (
            None,
            {"tie_word_embeddings": True},
            r"the same at the top level and in text_config, not \[True, False\]",
        ),
        ("vision_config", {"patch_size": 14}, "patch_size is 14, ivx supports only 16"),
        ("vision_config", {"spatial_merge_size": 3}, "spatial_merge_size is 3"),
        ("vision_config", {"temporal_patch_size": 1}, "temporal_patch_size is 1"),
        ("vision_config", {"num_position_embeddings": 50}, "50 is not a square"),
        ("vision_config", {"out_hidden_size": 7}, "out_hidden_size is 7"),
        ("vision_config", {"deepstack_visual_indexes": [0, 9]}, "must be block indices"),
        ("vision_config", {"deepstack_visual_indexes": [1, 1]}, "each at most once"),
        ("vision_config", {"deepstack_visual_indexes": []}, "a non-empty list of block indices"),
        (
            "text_config",
            {"num_hidden_layers": "3"},
            "num_hidden_layers must be an integer from 1 to",
        ),
        ("text_config", {"rope_theta": None}, "rope_theta must be a positive number"),
        ("text_config", {"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ("text_config", {"kv_lora_rank_list": [24, 16]}, r"each of 3 layers, not \[24, 16\]"),
        ("text_config", {"kv_lora_rank_list": [24, 16, 0]}, r"each of 3 layers, not \[24, 16, 0\]"),
        ("text_config", {"v_head_dim": 8}, "must be equal, not"),
        ("text_config", {"kv_lora_rank": None}, "3 layers, not None"),
    ],
)
def test_unsupported_config_is_rejected_in_one_sentence(
    words: tokenizer.Tokenizer,
    tmp_path: pathlib.Path,
    part: str | None,
    change: dict[str, Any],
    message: str,
):
    content = config.write_config(small_spec(), words)
    (content[part] if part else content).update(change)
    with pytest.raises(UserError, match=message) as error:
        config.read_spec(write_config(tmp_path, content))
    assert "\n" not in str(error.value)


def test_error_lists_every_problem_of_the_config(
    words: tokenizer.Tokenizer, tmp_path: pathlib.Path
):
    content = config.write_config(small_spec(), words)
    content["vision_config"].update(patch_size=14, depth=None)
    content["text_config"].update(hidden_act="gelu")
    with pytest.raises(UserError, match=r"hidden_act.*patch_size.*depth"):
        config.read_spec(write_config(tmp_path, content))


@pytest.mark.parametrize("attention", spec.ATTENTIONS)
def test_preset_is_recognised_by_its_sizes(
    words: tokenizer.Tokenizer, tmp_path: pathlib.Path, attention: str
):
    for name, make in spec.PRESETS.items():
        content = config.write_config(make(attention), words, "float32")
        assert config.preset_of(config.read_spec(write_config(tmp_path, content))) == name
    with pytest.raises(UserError, match=r"no preset \(tiny, .*text.width = 48 instead of 192"):
        config.preset_of(small_spec(attention))


def test_frame_rules_survive_a_round_trip_and_default_to_qwen(tmp_path: pathlib.Path):
    rules = processor.FrameRules(1.5, 2, 16, 4096, 65536, 1024, 12288)
    for name, content in processor.processor_files(rules).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert processor.read_frame_rules(tmp_path) == rules
    path, picture = (tmp_path / name for name in (processor.VIDEO_FILE, processor.PICTURE_FILE))
    path.write_text("{}")
    for content in ("{}", json.dumps({"min_pixels": 65536, "max_pixels": 16777216})):
        picture.write_text(content)
        assert processor.read_frame_rules(tmp_path) == processor.FrameRules()
    picture.write_text(json.dumps({"size": {"longest_edge": "large"}}))
    with pytest.raises(UserError, match=rf"{picture}: max_pixels = 'large', expected a positive"):
        processor.read_frame_rules(tmp_path)
    picture.unlink()
    assert processor.read_frame_rules(tmp_path) == processor.FrameRules()
    for value in ("many", -1, 2.5, 10**30, True):
        path.write_text(json.dumps({"max_frames": value}))
        with pytest.raises(UserError, match=r"max_frames = .*, expected a positive whole"):
            processor.read_frame_rules(tmp_path)


@pytest.mark.parametrize("name", (processor.PICTURE_FILE, processor.VIDEO_FILE))
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", [0.48, 0.46, 0.41]),
        ("image_std", "half"),
        ("patch_size", 14),
        ("rescale_factor", 1.0),
        ("do_normalize", False),
    ],
)
def test_other_scaling_of_pixels_is_refused(name, key, value, tmp_path: pathlib.Path):
    files = processor.processor_files(processor.FrameRules())
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content | {"rescale_factor": 0.00392156862745098}))
    assert processor.read_frame_rules(tmp_path) == processor.FrameRules()
    (tmp_path / name).write_text(json.dumps(files[name] | {key: value}))
    with pytest.raises(UserError, match=rf"{tmp_path / name}: {key} is .*, ivx supports only"):
        processor.read_frame_rules(tmp_path)


def test_rules_are_read_from_the_one_file_of_transformers_5(tmp_path: pathlib.Path):
    rules = processor.FrameRules(1.5, 2, 16, 4096, 65536, 1024, 12288)
    files = processor.processor_files(rules)
    both = {"processor_class": "Qwen3VLProcessor", "image_processor": files[processor.PICTURE_FILE]}
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(both | {"video_processor": files[processor.VIDEO_FILE]}))
    assert processor.read_frame_rules(tmp_path) == rules
    # As in transformers 5, it has precedence over the two older files.
    for name, content in processor.processor_files(processor.FrameRules()).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert processor.read_frame_rules(tmp_path) == rules
    path.write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))  # as version 4 writes it
    assert processor.read_frame_rules(tmp_path) == processor.FrameRules()
    path.write_text(json.dumps({"video_processor": {"fps": -1}}))
    with pytest.raises(UserError, match=rf"{path}: fps = -1, expected a positive number"):
        processor.read_frame_rules(tmp_path)


def render_exported(messages: list[dict], **variables: Any) -> str:
    """Renders the exported template in an environment like that of transformers."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(write.TEMPLATE.read_text()).render(
        messages=messages, **variables
    )


# The processor replaces it by the slices of the video, each after its time.
VIDEO = "<|video_pad|>"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "description": "zoom 看 <in>", "parameters": {}},
    }
]
CALLS = [{"name": "look", "arguments": {"start": 0.5}}, {"name": "look", "arguments": {}}]
# (ivx messages with a placeholder per video, HF messages with an item per video, tools).
CONVERSATIONS = {
    "plain": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<VIDEO_CONTEXT>Who?\n\nAnd why?"},
            {"role": "assistant", "content": "A cat.\n"},
            {"role": "user", "content": "  Sure? "},
        ],
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "video"}, {"type": "text", "text": "Who?\n\nAnd why?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A cat.\n"}]},
            {"role": "user", "content": "  Sure? "},
        ],
        (),
    ),
    "no system": (
        [{"role": "user", "content": "One <VIDEO_CONTEXT> two <VIDEO_CONTEXT>?"}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "One "},
                    {"type": "video", "video": "a.mp4"},
                    {"type": "text", "text": " two "},
                    {"type": "video_url", "video_url": {"url": "b.mp4"}},
                    {"type": "text", "text": "?"},
                ],
            }
        ],
        (),
    ),
    "tools": (
        [
            {"role": "system", "content": "Look twice."},
            {"role": "user", "content": "<VIDEO_CONTEXT>Who?"},
            {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
            {"role": "tool", "content": "nothing"},
            {"role": "tool", "content": "<VIDEO_CONTEXT>"},
            {"role": "assistant", "content": "", "tool_calls": CALLS[:1]},
            {"role": "tool", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
        ],
        [
            {"role": "system", "content": "Look twice."},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who?"}]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"type": "function", "function": call} for call in CALLS],
            },
            {"role": "tool", "content": "nothing"},
            {"role": "tool", "content": [{"type": "video"}]},
            {"role": "assistant", "content": None, "tool_calls": CALLS[:1]},
            {"role": "tool", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
        ],
        TOOLS,
    ),
    "tools without system": (
        [{"role": "user", "content": "Who?"}],
        [{"role": "user", "content": "Who?"}],
        TOOLS,
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("generate", [False, True])
def test_exported_template_matches_the_ivx_template(name: str, generate: bool):
    ours, theirs, tools = CONVERSATIONS[name]
    videos = sum(str(message["content"]).count("<VIDEO_CONTEXT>") for message in ours)
    pieces = chat_template.render(ours, [VIDEO] * videos, generate, tools)
    text = render_exported(theirs, tools=list(tools) or None, add_generation_prompt=generate)
    assert text == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("attention", spec.ATTENTIONS)
def test_card_has_front_matter_and_a_table(attention: str):
    text = card.render("kitten", spec.tiny(attention), {"step": 960, "odd": "a|b\nc"})
    front_matter = text.split("---\n")[1]
    assert "license: apache-2.0\nlibrary_name: transformers\n" in front_matter
    assert "# kitten\n" in text
    assert "| step | 960 |\n| odd | a\\|b c |\n" in text
    assert ("trust_remote_code=True" in text) == (attention != "gqa")
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(program, "card", "exec")
    assert "folder = 'kitten'\n" in program and "torchcodec" in text


def test_exported_rules_leave_nothing_to_a_default_of_transformers():
    content = processor.processor_files(processor.FrameRules())[processor.VIDEO_FILE]
    assert content["cap_pixels_per_frame"] is False
