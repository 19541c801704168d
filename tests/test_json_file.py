"""JSON files of a foreign folder: whatever they hold, they are read, or refused in a sentence."""

import json
import pathlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivx.errors import UserError
from ivx.hf import config, json_file, processor, shards
from ivx.models import spec
from ivx.text import tokenizer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1' + "0" * 400 + "}", "a number of 401 digits"),
        ('{"a": 1' + "0" * 9000 + "}", "a number of 9001 digits"),
        ('{"a": 1e999}', "the number 1e999, which is not finite"),
        ('{"a": NaN}', "the number NaN, which is not finite"),
        ('{"a": -Infinity}', "the number -Infinity, which is not finite"),
        ('["a"]', "holds no JSON object"),
        ('{"a": "\xff"}', "is damaged"),
        ("", "is damaged"),
    ],
    ids=lambda value: value[:12],
)
def test_absurd_json_is_refused_in_one_sentence(tmp_path: pathlib.Path, text: str, message: str):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        json_file.read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_huge_json_is_refused_without_being_read(tmp_path: pathlib.Path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no space
    with pytest.raises(UserError, match=r"has 1,099,511,627,776 bytes, expected at most"):
        json_file.read(path)


def test_shown_value_is_short_and_printable():
    for value in (
        "a\n\x1b[31m\ud800" * 1000,
        [[["x" * 1000] * 100] * 100],
        10**39,
        {"a": "b" * 999},
    ):
        assert len(json_file.shown(value)) < 500 and json_file.shown(value).isprintable()
    name = json_file.shown_name("a\n\x1b[31m\ud800é" * 1000)
    assert len(name) < 2000 and name.isprintable()
    assert json_file.shown_name("model.norm.weight") == "model.norm.weight"


# Values that JSON allows, among them those that break arithmetic, sizes and messages.
ABSURD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [0, -1, 10**9, 10**18, 10**39, 2**31, 2**63, 5e-324, 1e308, "", "\ud800", "\0"]
    )
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every value in an object, containers included."""
    if not isinstance(value, dict):
        return [path]
    return [path, *(leaf for key, item in value.items() for leaf in leaves(item, (*path, key)))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module", params=["m2la", "m2la_exact", "gqa"])
def content(request: pytest.FixtureRequest) -> dict:
    sizes = spec.tiny(request.param)
    return config.write_config(sizes, tokenizer.load("compact"), latent_ranks=())


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_config_with_any_value_is_read_or_refused(
    data: st.DataObject, content: dict, folder: pathlib.Path
):
    changed = json.loads(json.dumps(content))
    *parents, key = data.draw(st.sampled_from(leaves(content)[1:]))
    part = changed
    for parent in parents:
        part = part[parent]
    part[key] = data.draw(ABSURD)
    if isinstance(changed.get("text_config"), dict) and data.draw(st.booleans()):
        changed["text_config"]["kv_lora_rank_list"] = data.draw(ABSURD)
    (folder / "config.json").write_text(json.dumps(changed))
    try:
        sizes = config.read_spec(folder)
        config.read_ranks(folder)
        config.preset_of(sizes)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000 and str(error).isprintable()


@pytest.mark.parametrize("key", ["num_hidden_layers", "kv_lora_rank", "hidden_size", "head_dim"])
@pytest.mark.parametrize("value", [10**9, 10**18, -1, True, "4"])
def test_absurd_size_is_refused_at_once(tmp_path: pathlib.Path, key: str, value: object):
    content = config.write_config(spec.tiny("m2la"), tokenizer.load("compact"))
    content["text_config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    if key == "head_dim":  # latent attention has its own keys
        for part in ("qk_nope", "qk_rope", "v"):
            content["text_config"][f"{part}_head_dim"] = value
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="describes a model that ivx does not support"):
        config.read_ranks(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_processor_with_any_value_is_read_or_refused(data: st.DataObject, folder: pathlib.Path):
    files = processor.processor_files(processor.FrameRules())
    both = {
        "video_processor": files[processor.VIDEO_FILE],
        "image_processor": files[processor.PICTURE_FILE],
    }
    *parents, key = data.draw(st.sampled_from(leaves(both)[1:]))
    part = both
    for parent in parents:
        part = part[parent]
    part[key] = data.draw(ABSURD)
    (folder / processor.BOTH_FILE).write_text(json.dumps(both))
    (folder / processor.VIDEO_FILE).write_text(json.dumps(files[processor.VIDEO_FILE]))
    try:
        rules = processor.read_frame_rules(folder)
        assert rules.max_frames > 0
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@settings(max_examples=60, deadline=None)
@given(weight_map=ABSURD | st.dictionaries(st.text(max_size=5), st.text(max_size=300) | ABSURD))
def test_index_with_any_content_is_read_or_refused(weight_map: object, folder: pathlib.Path):
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    try:
        for file in shards.read_index(folder):
            shards.open_shard(folder / file)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
