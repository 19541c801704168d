"""The processor of an exported folder lays videos and images out as our pipeline does.

Runs where torchvision is installed besides torch and transformers, and is skipped elsewhere.
"""

import numpy as np
import pytest

from data_pipelines import layout
from data_pipelines.media import ImageRef
from data_pipelines.sources import Sample
from data_pipelines.video import decode
from ivx.evaluation.runner import as_prompt
from ivx.hf import processor, torchvision_shim, write
from ivx.models.definition import ModelDefinition
from ivx.text import chat_template, compact_tokenizer
from tests.conftest import small_spec
from tests.parity import images

pytest.importorskip("torch")
torchvision_shim.declare()
pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers", exc_type=ImportError)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, rule):
    """What `AutoProcessor` makes of a folder with the rules of our pipeline."""
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


def as_items(messages) -> list[dict]:
    """Our messages in their form: a video is an item instead of a placeholder."""
    written = []
    for message in messages:
        items = []
        texts = chat_template.message_text(message, 0).split(chat_template.VIDEO_PLACEHOLDER)
        for number, text in enumerate(texts):
            items += [{"type": "video"}] * (number > 0) + [{"type": "text", "text": text}]
        written.append({"role": message["role"], "content": items})
    return written


def whole_video(clip: layout.Clip) -> tuple[np.ndarray, dict]:
    """All frames of a file, and what is known of it; their processor samples by itself."""
    count, rate = clip.info.num_frames, float(clip.info.rate)
    frames = decode.read_frames(clip.path, clip.info, np.arange(count), lambda frame: frame)
    facts = {"total_num_frames": count, "fps": rate, "duration": count / rate}
    return np.stack(frames), facts


def test_tokens_are_the_same_and_pixels_within_rounding(theirs, samples, rule):
    """Frames, times, sizes, template, tokens and the order of patches, over all kinds of clips."""
    seen = 0
    for sample in samples:
        asked = as_prompt(sample)
        ours = rule(asked, generate=True)
        if len(ours.clips) != 1:
            continue
        [clip] = ours.clips
        frames, facts = whole_video(clip)
        text = theirs.apply_chat_template(
            as_items(asked.messages), add_generation_prompt=True, tokenize=False
        )
        found = theirs(text=[text], videos=[frames], video_metadata=[facts], return_tensors="pt")
        assert found["input_ids"][0].tolist() == ours.tokens.tolist()
        assert found["video_grid_thw"].tolist() == [[len(clip.times), *clip.patch_shape]]
        rows = np.concatenate(ours.read_patches()[0]).astype(np.float32) / 127.5 - 1
        # Two implementations of one resampling round differently: one step of 255.
        assert np.abs(rows - found["pixel_values_videos"].numpy()).max() < 1.01 / 127.5
        seen += 1
    assert seen > 5


def test_images_of_a_message_are_the_same_within_rounding(theirs, rule, tmp_path):
    """All the image files in one message, opened by them and by us, a word after each.

    They open them by PIL: the decoders of torchvision are not there beside torch without CUDA.
    """
    paths = [str(path) for path in images.write(tmp_path)]
    words = [f"{number}, " for number in range(len(paths))]
    asked = {"role": "user", "content": "".join(images.IMAGE + word for word in words)}
    from transformers.image_utils import load_image

    sample = Sample("x", (asked,), (), images=tuple(ImageRef(path, None) for path in paths))
    ours = rule(sample, generate=True)
    items = [
        part
        for path, word in zip(paths, words, strict=True)
        for part in ({"type": "image", "image": load_image(path)}, {"type": "text", "text": word})
    ]
    found = theirs.apply_chat_template(
        [{"role": "user", "content": items}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert found["input_ids"][0].tolist() == ours.tokens.tolist()
    assert found["image_grid_thw"].tolist() == [[1, *clip.patch_shape] for clip in ours.clips]
    rows = np.concatenate(ours.read_patches()[0]).astype(np.float32) / 127.5 - 1
    away = np.abs(rows - found["pixel_values"].numpy()) * 127.5
    print(f"pixels differ by {away.max():.2f} of 255 at most, {away.mean():.5f} in the mean")
    assert away.max() < 2.01 and away.mean() < 0.01
