"""The processor of an exported folder lays out videos and images as the ivx pipeline does.

Skipped without torch, torchvision and transformers.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from data_pipelines import layout
from data_pipelines.media import ImageRef
from data_pipelines.sources import Sample
from data_pipelines.video import decode
from ivx.evaluation.runner import as_prompt
from ivx.hf import peer, processor, write
from ivx.models.definition import ModelDefinition
from ivx.text import chat_template, compact_tokenizer
from tests.conftest import small_spec
from tests.parity import images

pytest.importorskip("torch")
peer.declare_torchvision_operators()
pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers", exc_type=ImportError)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, rule: layout.LayoutRule) -> Iterator[Any]:
    """The `AutoProcessor` of a folder with the rules of the ivx pipeline."""
    definition = ModelDefinition(small_spec("gqa"))
    frames, budget, images = rule.frame_rule, rule.budget, rule.image_budget
    rules = processor.FrameRules(
        frames.fps,
        frames.min_frames,
        frames.max_frames,
        budget.min_pixels,
        budget.max_pixels,
        images.min_pixels,
        images.max_pixels,
    )
    folder = tmp_path_factory.mktemp("processor") / "model"
    write.export(folder, definition, definition.init(0), compact_tokenizer.PATH, rules, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield transformers.AutoProcessor.from_pretrained(folder)


def as_items(messages: Sequence[dict]) -> list[dict]:
    """Messages in the format of transformers: an item for each video instead of a placeholder."""
    converted = []
    for message in messages:
        items = []
        texts = chat_template.message_text(message, 0).split(chat_template.VIDEO_PLACEHOLDER)
        for index, text in enumerate(texts):
            items += [{"type": "video"}] * (index > 0) + [{"type": "text", "text": text}]
        converted.append({"role": message["role"], "content": items})
    return converted


def full_video(clip: layout.Clip) -> tuple[np.ndarray, dict]:
    """All frames of a file and its metadata; the processor samples them itself."""
    count, rate = clip.info.num_frames, float(clip.info.rate)
    frames = decode.read_frames(clip.path, clip.info, np.arange(count), lambda frame: frame)
    metadata = {"total_num_frames": count, "fps": rate, "duration": count / rate}
    return np.stack(frames), metadata


def test_video_tokens_are_equal_and_pixels_within_rounding(
    theirs: Any, samples: list[Sample], rule: layout.LayoutRule
):
    """Frames, times, sizes, template, tokens and patch order, over all kinds of clips."""
    compared = 0
    for sample in samples:
        prompt = as_prompt(sample)
        ours = rule.lay_out(prompt, generate=True)
        if len(ours.clips) != 1:
            continue
        [clip] = ours.clips
        frames, metadata = full_video(clip)
        text = theirs.apply_chat_template(
            as_items(prompt.messages), add_generation_prompt=True, tokenize=False
        )
        inputs = theirs(
            text=[text], videos=[frames], video_metadata=[metadata], return_tensors="pt"
        )
        assert inputs["input_ids"][0].tolist() == ours.tokens.tolist()
        assert inputs["video_grid_thw"].tolist() == [[len(clip.times), *clip.patch_shape]]
        rows = np.concatenate(ours.read_patches()[0]).astype(np.float32) / 127.5 - 1
        # Two implementations of the same resampling may round differently, by one level of 255.
        assert np.abs(rows - inputs["pixel_values_videos"].numpy()).max() < 1.01 / 127.5
        compared += 1
    assert compared > 5


def test_image_tokens_are_equal_and_pixels_within_rounding(
    theirs: Any, rule: layout.LayoutRule, tmp_path: pathlib.Path
):
    """All image files in one message, each followed by a word, opened by transformers and by ivx.

    transformers uses PIL: without CUDA in torch, torchvision has no decoders.
    """
    paths = [str(path) for path in images.write(tmp_path)]
    words = [f"{index}, " for index in range(len(paths))]
    message = {"role": "user", "content": "".join(images.IMAGE + word for word in words)}
    from transformers.image_utils import load_image

    sample = Sample("x", (message,), (), images=tuple(ImageRef(path, None) for path in paths))
    ours = rule.lay_out(sample, generate=True)
    items = [
        part
        for path, word in zip(paths, words, strict=True)
        for part in ({"type": "image", "image": load_image(path)}, {"type": "text", "text": word})
    ]
    inputs = theirs.apply_chat_template(
        [{"role": "user", "content": items}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert inputs["input_ids"][0].tolist() == ours.tokens.tolist()
    assert inputs["image_grid_thw"].tolist() == [[1, *clip.patch_shape] for clip in ours.clips]
    rows = np.concatenate(ours.read_patches()[0]).astype(np.float32) / 127.5 - 1
    difference = np.abs(rows - inputs["pixel_values"].numpy()) * 127.5
    print(
        f"pixels differ by up to {difference.max():.2f} of 255, {difference.mean():.5f} on average"
    )
    assert difference.max() < 2.01 and difference.mean() < 0.01
